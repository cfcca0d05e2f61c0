"""Known answers of the analyses of causes: on the planted model the place of the cause is found, and verdicts follow when it moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safesteer_interp import runner
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.session import RunSettings as Settings
from safesteer_interp.runner.session import Session

FOLDER = Path(__file__).parents[2] / "analyses"
SMALLER: dict[str, dict[str, Any]] = {
    "patching_text_to_image": {"pairs": 12, "layers": 6},
    "attention_routes": {"pairs": 14, "width": 2},
    "readable_and_used": {"pairs": 14, "random_directions": 39},
    "component_attribution": {"pairs": 20, "random_circuits": 39},
    "image_token_lens": {"pairs": 14},
    "adaptive_probe": {"pairs": 12, "epsilons": (4.0, 64.0)},
    "harm_by_stage": {"pairs": 24, "fit_pairs": 24, "layers": 2, "draws": 39},
}
pytestmark = pytest.mark.slow
LONG = ("patching_text_to_image", "attention_routes")
Measured = Callable[..., tuple[dict[str, pd.DataFrame], dict[str, str]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Tables and verdicts of an analysis on a variant of the planted model; each is measured once."""
    benches: dict[Any, Session] = {}
    found: dict[Any, Any] = {}

    def run(name: str, **changes: Any) -> Any:
        from safesteer_interp.models.planted import build_planted

        key = tuple(sorted(changes.items()))
        if key not in benches:
            settings = Settings(model="planted", store=tmp_path_factory.mktemp("traces"), progress=False)
            benches[key] = Session(settings, loaded_model=build_planted(**changes))
        if (name, key) not in found:
            analysis = runner.discover(FOLDER)[name]
            context = Context(benches[key], analysis, analysis.parameters("quick", SMALLER[name]), tmp_path_factory.mktemp("work"))
            tables, record = measure(context)
            found[name, key] = tables, {c["id"]: c["verdict"] for c in record["claims"]}
        return found[name, key]

    return run


def value(t: pd.DataFrame, **where: Any) -> float:
    for column, wanted in where.items():
        t = t[(t[column].astype(float) == wanted) if isinstance(wanted, float) else (t[column].astype(str) == str(wanted))]
    assert len(t) == 1, where
    return float(t["value"].iloc[0])


def case(name: str, changes: dict[str, Any], expected: dict[str, str]) -> Any:
    return pytest.param(name, changes, expected, id=" ".join([name, *changes.values()]), marks=[pytest.mark.long] if name in LONG else [])


CASES = [
    (
        "patching_text_to_image",
        {},
        {
            f"{claim}_{attack}": "supported"
            for claim in ("last_token_restores", "last_token_destroys", "last_token_empty_early")
            for attack in ("sd", "typo")
        },
    ),
    ("attention_routes", {}, {"refusal_comes_from_the_words_cb": "supported", "refusal_is_read_directly_cb": "supported"}),
    (
        "readable_and_used",
        {},
        {
            "refusal_direction_is_used_sd": "supported",  # of the others fourteen pairs need not decide
        },
    ),
    *(
        (
            "harm_by_stage",
            {"lost_at": lost} if lost else {},
            {
                f"{claim}_{attack}": verdict
                for attack in ("sd", "typo")
                for claim, verdict in {
                    "eyes_tell_harm": "contradicted" if lost == "eyes" else "supported",
                    **({"projector_loses_harm": "supported"} if lost == "projector" else {}),
                    **({"decoder_loses_harm": "supported"} if lost == "decoder" else {}),
                }.items()
            },
        )
        for lost in ("", "eyes", "projector", "decoder")
    ),
    # What is planted there is all that differs from a blank picture: the distance from it tells the place as well.
    ("image_token_lens", {}, {"probe_map_finds_the_harm_sd": "undecided", "refusal_map_finds_the_harm_typo": "undecided"}),
]


@pytest.mark.parametrize(("name", "changes", "expected"), [case(*c) for c in CASES])
def test_verdict_equals_the_planted_truth(measured: Measured, name: str, changes: dict[str, Any], expected: dict[str, str]) -> None:
    _, verdicts = measured(name, **changes)
    assert {claim: verdicts[claim] for claim in expected} == expected


def test_harm_is_told_up_to_the_stage_where_it_is_planted_to_end(measured: Measured) -> None:
    """The projector as the place of the loss, and each other stage; the noise joins harm in the projector, which costs a little always."""
    order = ("pixels", "eyes", "projector", "image tokens", "last token")
    ends = {"": "last token", "eyes": "pixels", "projector": "eyes", "decoder": "image tokens"}
    for lost, last_told in ends.items():
        tables, verdicts = measured("harm_by_stage", **({"lost_at": lost} if lost else {}))
        for attack in ("SD", "TYPO"):
            told = [value(tables["contrasts"], attack=attack, part=part, edge="told") for part in order]
            assert [x > 0.75 for x in told] == [place <= order.index(last_told) for place in range(5)], (lost, told)
        assert "supported" not in {verdict for claim, verdict in verdicts.items() if "makes" in claim}
        lose = {claim for claim, verdict in verdicts.items() if "loses" in claim and verdict == "supported"}
        assert {claim.split("_")[0] for claim in lose} == ({lost} if lost in ("projector", "decoder") else set())


def test_maps_of_image_tokens_find_what_was_planted_no_better_than_its_size_does(measured: Measured) -> None:
    t = measured("image_token_lens")[0]["table"]
    for name, attack in (("probe", "SD"), ("refusal", "TYPO")):
        of = {"map": name, "attack": attack, "truth": "pixels that differ", "layer": 0}
        assert value(t, **of, quantity="minus shuffled") > 0.2
        change = value(t, **of | {"map": "change"}, quantity="auroc")
        assert value(t, **of, quantity="minus change") == pytest.approx(value(t, **of, quantity="auroc") - change, abs=1e-5)


@pytest.mark.long
def test_patching_finds_layer_and_token_where_harm_is_written(measured: Measured) -> None:
    """Layer 3's attention writes it into the last token; image and user tokens carry it before, and nothing after."""
    tables, _ = measured("patching_text_to_image")
    for attack in ("SD", "TYPO"):
        for direction in ("restore", "destroy"):
            of = {"attack": attack, "direction": direction, "quantity": "refusal"}
            assert abs(value(tables["table"], **of, role="last", layer=2)) < 0.01
            assert abs(value(tables["table"], **of, role="last", layer=3) - 1) < 0.01
            assert value(tables["table"], **of, role="user", layer=2) > 0.1 > abs(value(tables["table"], **of, role="user", layer=3))
            assert value(tables["table"], **of, role="everything", layer=0) > 0.7
        said = {r.said: r.value for r in tables["answers"].fillna({"minus": ""}).itertuples() if r.attack == attack and not r.minus}
        assert said["the picture with the text's last token"] == said["the text"] > 0.5 > said["the picture"]
        assert said["the picture with the harmless text's last token"] < 0.2
        writes = {"attack": attack, "quantity": "refusal", "write": "attn_out"}
        assert abs(value(tables["writes"], **writes, layer=3) - 1) < 0.01 and abs(value(tables["writes"], **writes, layer=2)) < 0.01


@pytest.mark.long
def test_routes_are_cut_where_the_planted_layer_reads_and_nowhere_else(measured: Measured) -> None:
    tables, _ = measured("attention_routes")
    of = {"attack": "CB", "quantity": "refusal", "route": "user to last"}
    assert value(tables["table"], **of, window="2-3") == pytest.approx(1, abs=5e-3)
    assert value(tables["table"], **of, window="0-1") == pytest.approx(0, abs=5e-3)
    assert value(tables["table"], **of, window="4-5") == pytest.approx(0, abs=5e-3)
    assert abs(value(tables["table"], **{**of, "route": "image to user"}, window="all layers")) < 0.05


def test_the_planted_head_heads_the_ranking(measured: Measured) -> None:
    tables, _ = measured("component_attribution")
    best = tables["components"].sort_values("exact", ascending=False)["component"]
    assert best.iloc[0] == "head.3.0" == tables["components"].sort_values("integrated", ascending=False)["component"].iloc[0]
    assert value(tables["table"], order="exact", size=1) == pytest.approx(1, abs=0.02)
    assert value(tables["table"], order="random circuits", size=1) < 0.6


def test_the_probe_gives_way_as_far_as_its_pixels_may_change(measured: Measured) -> None:
    tables, _ = measured("adaptive_probe")
    known = {"attack": "SD", "detector": "the probe", "quantity": "auroc"}
    scores = [value(tables["table"], **known, epsilon=e) for e in (0.0, 4.0, 64.0)]
    assert scores[0] > 0.8 and scores[0] >= scores[1] >= scores[2] and scores[2] < 0.3
    assert value(tables["table"], attack="SD", detector="MSAV gate", quantity="share caught", epsilon=64.0) < 0.2
