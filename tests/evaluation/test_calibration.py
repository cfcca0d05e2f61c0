"""Calibration: what is chosen on validation pairs of the planted model, its thresholds, its files, and that it resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.presets import calibration_folder, find_calibration
from safesteer_interp.defenses.registry import choose
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.calibration import TERMS, Effort, Grid, _row, calibrate, thresholds
from safesteer_interp.models.planted import build_planted, planted_requests
from safesteer_interp.requests import Attack, Request, Split, select
from safesteer_interp.tracing.tracer import Sampling

FEW = Grid(fits=("prompt",), betas=(1.0,), steps=(2,), over_refusals=(0.2,))
SMALL = Effort(fit_pairs=40, pairs=12, first_pairs=6, finalists=2, new_tokens=8)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return planted_requests(200, attacks=(Attack.TEXT, Attack.CB, Attack.SD))


@pytest.mark.slow
def test_what_lowers_the_objective_is_chosen_kept_and_found_again(
    planted: Any, requests: list[Request], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = calibrate(planted, requests, FEW, SMALL, root=fresh_cache / "answers", progress=False)
    table, chosen = found.table, found.record["chosen"]
    none = table[(table["setting"] == "none") & (table["round"] == 2)].iloc[0]
    best = table[table["chosen"]].iloc[0]
    assert best["objective"] == table.loc[(table["round"] == 2) & (table["setting"] != "none"), "objective"].min() < none["objective"] - 0.2
    assert best["objective"] == pytest.approx(sum(best[term] for term in TERMS))
    assert none["nats_lost"] == 0 and none["degenerate"] == 0
    assert none["objective"] == pytest.approx(none["not_refused"] + none["over_refusal"])
    assert set(table["round"]) == {1, 2} and (table["round"] == 2).sum() == 1 + SMALL.finalists
    assert chosen["rule"] == "toward_text/unit", "on the planted model it is the vector that restores refusals"
    assert found.record["validation_pairs"] == {"round 1": 6, "round 2": 12}
    folder = found.save(calibration_folder(planted))
    assert sorted(p.name for p in folder.iterdir()) == ["calibration.json", "grid.csv", "safesteer.safetensors"]
    assert json.loads((folder / "calibration.json").read_text())["objective"] == " + ".join(TERMS)
    assert len(pd.read_csv(folder / "grid.csv")) == len(table)
    assert find_calibration(planted) == folder
    assert not choose("safesteer").fits_on(planted), "nothing is traced where a calibration is stored"
    loaded = choose("safesteer-calibrated").build(planted)
    assert loaded.fingerprint() == found.defense.fingerprint() and loaded.preset == "calibrated"  # type: ignore[attr-defined]
    assert choose("safesteer", ["k=3"]).build(planted).preset == "custom"  # type: ignore[attr-defined]
    assert find_calibration(replace(planted, system_prompt="Be brief.")) is None, "another template is another model"

    def written(mllm: Any, asks: Any, *_: Any, **__: Any) -> Any:
        assert not asks, "a stored answer was written again"
        return iter(())

    monkeypatch.setattr("safesteer_interp.evaluation.harness.answer_asks", written)
    again = calibrate(planted, requests, FEW, SMALL, root=fresh_cache / "answers", progress=False)
    pd.testing.assert_frame_equal(again.table, table)


@pytest.mark.slow
def test_a_shipped_calibration_belongs_to_the_weights_wherever_they_were_assembled(
    planted: Any, requests: list[Request], fresh_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = calibrate(planted, requests, FEW, SMALL, root=fresh_cache / "answers", progress=False)
    found.record["weights"] = "digest of the weights"
    found.save(tmp_path / "shipped" / "planted")
    monkeypatch.setattr("safesteer_interp.defenses.presets.SHIPPED", tmp_path / "shipped")
    monkeypatch.setattr("safesteer_interp.defenses.presets.weights_digest", lambda folder: "other weights")
    elsewhere = replace(planted, fingerprint="f" * 64)
    assert find_calibration(planted) == tmp_path / "shipped" / "planted" and find_calibration(elsewhere) is None
    monkeypatch.setattr("safesteer_interp.defenses.presets.weights_digest", lambda folder: "digest of the weights")
    assert find_calibration(elsewhere) == tmp_path / "shipped" / "planted"
    SafeSteer.calibrated(elsewhere).guard(elsewhere)


@pytest.mark.slow
def test_harmless_answers_stay_whole_where_the_gate_is_shut(planted: Any, requests: list[Request], fresh_cache: Path) -> None:
    defense = calibrate(planted, requests, FEW, SMALL, root=fresh_cache / "answers", progress=False).defense
    greedy = Settings(Sampling(8, temperature=0.0))
    some = select(requests, split=Split.TEST, harmful=False)[:40]
    plain = Undefended().respond(planted, some, greedy)
    shut = 0
    for response, undefended in zip(defense.respond(planted, some, greedy), plain, strict=True):
        if not response.verdict["harmful"]:
            shut += 1
            assert response.ids == undefended.ids
    assert shut > 20


@pytest.mark.slow
def test_a_probe_that_fails_its_sign_test_is_left_out(requests: list[Request], fresh_cache: Path) -> None:
    backwards = build_planted(token_scores=-1.0)
    found = calibrate(backwards, requests, FEW, SMALL, root=fresh_cache / "answers", progress=False)
    assert "failed its sign test" in found.record["left_out"]["prompt"] and found.defense.steps == 0
    with pytest.raises(InputError, match="nothing is left to calibrate: no probe passed"):
        calibrate(backwards, requests, replace(FEW, rules=("none",)), SMALL, root=fresh_cache / "answers", progress=False)


def test_likelier_answers_earn_nothing_and_degenerate_ones_cost() -> None:
    answers = pd.DataFrame({"pair": ["a", "a", "b", "b"], "harmful": [True, False] * 2, "attack": "text"})

    def row(outcomes: str, nats: list[float]) -> dict[str, Any]:
        words = {"c": "comply", "r": "refuse", "d": "degenerate"}
        return _row(answers.assign(outcome=[words[letter] for letter in outcomes], nats=nats))

    assert row("rcrc", [0, 0, 0, 0])["objective"] == 0
    assert row("rcrc", [-1, -2, -1, -2])["objective"] == 0, "an answer that grows likelier makes up for no refusal"
    assert row("rcrc", [5, -2, 5, 1])["nats_lost"] == 0.5, "neither for another answer; and what harmful requests get is no loss of use"
    assert row("ccrr", [0, 0, 0, 0])["objective"] == 1
    garbage = row("drdc", [0, 0, 0, 0])
    assert garbage["objective"] == 1.5 and garbage["degenerate"] == 0.5, "garbage is no better than compliance"
    assert garbage["low"] <= 1.5 <= garbage["high"], "the interval is of the objective"
    assert row("rdrd", [0, float("nan"), 0, 0])["objective"] == 1, "an empty answer has no nats and is no use"


def test_thresholds_stand_where_the_stated_share_of_harmless_requests_is_called_harmful() -> None:
    scores = pd.DataFrame({"harmful": False, "picture": [False] * 10 + [True] * 5, "score": [*range(10), *range(100, 105)]})
    for share, words, pictures in ((0.0, 9, 104), (0.1, 8, 104), (0.25, 7, 103), (0.5, 4, 102)):
        assert thresholds(scores, share) == (words, pictures)
        bars = scores["picture"].map({False: words, True: pictures})
        assert ((scores["score"] > bars).groupby(scores["picture"]).mean() <= share).all()
    assert thresholds(scores[scores["picture"]], 0.5) == (102, 102), "a kind without harmless requests has the other's"


def test_what_cannot_be_calibrated_is_one_sentence(planted: Any, safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path) -> None:
    with pytest.raises(InputError, match="harmful and harmless requests in the validation split"):
        calibrate(planted, [r for r in planted_requests(20) if r.split is Split.FIT], FEW, SMALL, progress=False)
    with pytest.raises(UsageError, match=r"over-refusal of 1\.5 is not possible"):
        Grid(over_refusals=(1.5,))
    with pytest.raises(UsageError, match='"centred" fit may not guide'):
        Grid(fits=("centred",))
    for flags, sentence in (
        (("--finalists", "0"), "--finalists 0 leaves nothing to do"),
        (("--pairs", "-1"), "--pairs -1 is not possible"),
        (("--steps", "30"), "--steps 30 are more than the 24 tokens"),
        (("--fits", "promt"), '"promt" is not a fit'),
    ):
        code, _, err = safesteer("calibrate", "--model", "planted", *flags)
        assert code == 2 and sentence in err and "Traceback" not in err


def test_the_command_writes_and_says_what_it_chose(
    safesteer: Callable[..., tuple[int, str, str]],
    requests: list[Request],
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("safesteer_interp.cli.calibrate.choose_requests", lambda name, data_root: requests)
    small = ("--fit-pairs", "40", "--pairs", "12", "--first-pairs", "6", "--finalists", "2", "--max-new-tokens", "8")
    few = ("--fits", "prompt", "--betas", "1", "--steps", "2", "--over-refusals", "0.2")
    code, out, err = safesteer("calibrate", "--model", "planted", "--out", str(tmp_path / "chosen"), *small, *few)
    assert code == 0, err
    assert "over-refusal" in out and "nats lost per token" in out and "chosen: " in err
    assert SafeSteer.load(tmp_path / "chosen").preset == "calibrated"
