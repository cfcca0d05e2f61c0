"""Defenses: SafeSteer's planted verdicts, its guards and its files, and which pictures are blank."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support.decoding import asked
from support.earlier_files import earlier_defense

from safesteer_interp.decoding.pictured import rows_showing
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.composed import Composed
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.safesteer import SafeSteer, description
from safesteer_interp.defenses.safesteer_checks import current_parameters
from safesteer_interp.errors import InputError, SafeSteerWarning, UsageError
from safesteer_interp.evaluation.harness import evaluate
from safesteer_interp.evaluation.metrics import compare, rates
from safesteer_interp.models.planted import build_planted, planted_requests, planted_truth
from safesteer_interp.probes.fitting import training_trace
from safesteer_interp.requests import Attack, Request, Split, select
from safesteer_interp.tracing.trace import Trace
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0), batch_size=64)


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return planted_requests(160, attacks=(Attack.CB, Attack.SD))


@pytest.fixture(scope="module")
def trace(planted: Any, requests: list[Request]) -> Trace:
    return training_trace(planted, requests, progress=False)


@pytest.fixture(scope="module")
def safesteer(planted: Any, trace: Trace) -> SafeSteer:
    return SafeSteer.from_trace(planted, trace, gate="none")


def test_planted_verdicts(planted: Any, requests: list[Request], safesteer: SafeSteer, tmp_path: Path) -> None:
    """Toward text restores the refusal of harmful pictures; the printed sign and a random vector do not; harmless stays answered."""
    variants = {
        "none": Undefended(),
        "toward_text": safesteer,
        "printed": replace(safesteer, sign="printed"),
        "random": safesteer.with_random_vector(),
        "vector only": replace(safesteer, steps=0),
    }
    pictures = select(requests, attacks=[Attack.SD], split=Split.TEST)
    table = evaluate(planted, variants, pictures, seeds=(0,), settings=SETTINGS, root=tmp_path, progress=False)
    asr = rates(table, measures=("asr",)).set_index("defense")
    rr = rates(table, measures=("rr",)).set_index("defense")
    assert asr.loc["none", "value"] > 0.8, "pictures slip past the undefended model"
    for name in ("toward_text", "vector only"):
        assert asr.loc[name, "high"] < asr.loc["none", "low"] - 0.2
        assert rr.loc[name, "value"] < 0.35
    for name in ("printed", "random"):
        assert asr.loc[name, "value"] > 0.8
    paired = compare(table, measures=("asr",)).set_index("defense")
    assert paired.loc["toward_text", "p_holm"] < 0.05 and paired.loc["toward_text", "high"] < -0.2
    assert paired.loc["printed", "difference"] > -0.2
    assert set(table.loc[table["defense"] == "none", "verdict"].map(bool)) == {False}
    assert all({"score", "harmful", "aligned", "guided"} <= set(v) for v in table.loc[table["defense"] == "printed", "verdict"])


def test_the_vector_finds_the_planted_gap(planted: Any, safesteer: SafeSteer) -> None:
    assert safesteer.vector is not None
    found = safesteer.vector.mu / safesteer.vector.mu.norm()
    assert float(found @ planted_truth(planted).gap_direction) > 0.95


@pytest.mark.slow
def test_reversed_token_scores_fail_the_sign_test_and_may_not_guide(requests: list[Request]) -> None:
    reversed_model = build_planted(token_scores=-1.0)
    trained = training_trace(reversed_model, requests, progress=False)
    defense = SafeSteer.from_trace(reversed_model, trained, fit="prompt")
    assert defense.probe.sign_test_ is not None and not defense.probe.sign_test_.passed
    with pytest.raises(UsageError, match="failed its sign test"):
        defense.respond(reversed_model, requests[:2], SETTINGS)
    assert len(replace(defense, force=True).respond(reversed_model, requests[:2], SETTINGS)) == 2
    assert len(replace(defense, steps=0).respond(reversed_model, requests[:2], SETTINGS)) == 2, "alignment alone needs no sign test"


def test_what_does_not_fit_is_refused(planted: Any, tiny: Callable[[str], Any], trace: Trace, safesteer: SafeSteer) -> None:
    other = tiny("llava")
    with pytest.raises(UsageError, match=r'fitted on model "planted".*"tiny:llava"'):
        safesteer.respond(other, asked(other), SETTINGS)
    elsewhere = replace(planted, system_prompt="Answer briefly.")
    with pytest.raises(UsageError, match="chat template and system prompt"):
        safesteer.respond(elsewhere, planted_requests(1), SETTINGS)
    with pytest.raises(UsageError, match="K is 0"):
        replace(safesteer, k=0)
    with pytest.raises(UsageError, match="steps is 9 but at most 8 tokens"):
        replace(safesteer, steps=9).respond(planted, planted_requests(1), SETTINGS)
    with pytest.raises(UsageError, match=r'no gate "prob".* Did you mean "probe"'):
        replace(safesteer, gate="prob")
    with pytest.raises(UsageError, match='sign "to_text" is unknown'):
        replace(safesteer, sign="to_text")
    with pytest.raises(UsageError, match="`beta`"):
        replace(safesteer, beta=-1.0)
    with pytest.raises(UsageError, match="may not guide decoding: it takes one and the same vector"):
        SafeSteer.from_trace(planted, trace, fit="centred")
    with pytest.raises(UsageError, match="has none; fit it on SD and CB"):
        replace(safesteer, vector=None)
    assert safesteer.vector is not None
    narrow = replace(safesteer, vector=replace(safesteer.vector, mu=torch.ones(8), mean_text=torch.ones(8)))
    with pytest.raises(UsageError, match="width 8"):
        narrow.respond(planted, planted_requests(1), SETTINGS)


def test_a_vector_needs_both_forms(planted: Any) -> None:
    only_text = planted_requests(20, attacks=(Attack.CB,))
    with pytest.raises(InputError, match='no "SD" request'):
        SafeSteer.fit(planted, only_text, tracing={"progress": False})
    assert SafeSteer.fit(planted, only_text, alignment=False, tracing={"progress": False}).vector is None
    with pytest.raises(UsageError, match=r'K is 900, but "planted" has \d+ tokens'):
        SafeSteer.fit(planted, [], k=900)  # before anything is traced
    with pytest.raises(InputError, match="of the test or the align split"):
        SafeSteer.fit(planted, select(only_text, split=Split.TEST), tracing={"progress": False})
    with pytest.raises(UsageError, match="none were given"):
        SafeSteer.build(planted)


def test_a_saved_defense_answers_alike(planted: Any, trace: Trace, safesteer: SafeSteer, tmp_path: Path) -> None:
    folder = replace(safesteer, k=3, gate="probe").save(tmp_path / "defense")
    loaded = SafeSteer.load(folder)
    assert loaded.fingerprint() == replace(safesteer, k=3, gate="probe").fingerprint() != safesteer.fingerprint()
    some = planted_requests(4)
    assert [r.ids for r in loaded.respond(planted, some, SETTINGS)] == [
        r.ids for r in replace(safesteer, k=3, gate="probe").respond(planted, some, SETTINGS)
    ]
    assert SafeSteer.load(folder, steps=2).steps == 2
    earlier = SafeSteer.load(earlier_defense(replace(safesteer, k=3, gate="probe"), tmp_path / "earlier"))
    assert earlier.fingerprint() == loaded.fingerprint()
    assert loaded.probe.sign_test_ == safesteer.probe.sign_test_ and loaded.probe.sign_test_.passed
    assert loaded.probe.spread_ == safesteer.probe.spread_ and loaded.choice == safesteer.choice
    assert description(loaded)["probe"].startswith("token fit at final_norm on planted")
    assert [p.name for p in folder.iterdir()] == ["safesteer.safetensors"]
    by_prompts = SafeSteer.load(SafeSteer.from_trace(planted, trace, fit="prompt").save(tmp_path / "prompt"))
    assert by_prompts.probe is by_prompts.prompt_probe, "one probe is stored once"
    with pytest.raises(InputError, match=r"safesteer\.safetensors does not exist"):
        SafeSteer.load(tmp_path)
    loaded.vector.save(folder / "safesteer.safetensors")
    with pytest.raises(InputError, match='expected "safesteer-defense/2"'):
        SafeSteer.load(folder)


def test_the_fingerprint_follows_what_changes_answers(safesteer: SafeSteer) -> None:
    prints = {
        safesteer.fingerprint(),
        replace(safesteer, steps=4).fingerprint(),
        replace(safesteer, sign="printed").fingerprint(),
        safesteer.with_random_vector(0).fingerprint(),
        safesteer.with_random_vector(1).fingerprint(),
        Undefended().fingerprint(),
        CoCA().fingerprint(),
        CoCA(alpha=1.0).fingerprint(),
    }
    assert len(prints) == 8
    assert replace(safesteer, force=True, preset="paper").fingerprint() == safesteer.fingerprint()


def test_an_ungated_request_is_guided_and_a_gated_harmless_one_is_not(planted: Any, safesteer: SafeSteer) -> None:
    some = select(planted_requests(12, attacks=(Attack.CB,)), split=Split.TEST)
    settings = replace(SETTINGS, explain=True)
    for response in replace(safesteer, gate="probe").respond(planted, some, settings):
        assert response.verdict["guided"] == response.verdict["harmful"] == bool(response.steps)
    for response in safesteer.respond(planted, some, settings):
        assert response.verdict["guided"] and len(response.steps) == min(5, len(response.ids))
        for record in response.steps:
            assert len(record.candidates) == len(record.scores) == 5
    plain = Undefended().respond(planted, some, settings)
    gated = replace(safesteer, gate="probe", alignment=False).respond(planted, some, settings)
    assert all(g.ids == p.ids for g, p in zip(gated, plain, strict=True) if not g.verdict["harmful"])


def test_parameters_of_earlier_versions_are_understood() -> None:
    rest = {"k": 5, "gate": "none"}
    assert current_parameters({**rest, "mix": 0.0, "temperature": 1.0}) == {**rest, "beta": 1.0, "score_only": True, "scaled": False}
    assert current_parameters({**rest, "mix": 0.5, "temperature": 0.5})["beta"] == 2.0
    assert current_parameters({**rest, "mix": 0.0, "temperature": 0.0})["beta"] == float("inf")
    with pytest.raises(InputError, match=r"mix=0.5 and temperature=1.0, which .* cannot say"):
        current_parameters({**rest, "mix": 0.5, "temperature": 1.0})
    now = {"beta": 2.0, "k": 3}
    assert current_parameters(now) == now


def test_the_threshold_is_one_for_words_and_one_for_pictures(planted: Any, safesteer: SafeSteer) -> None:
    """Text and a blank image are told from a picture that shows something, by what is visible of a request alone."""
    some = select(planted_requests(40, attacks=(Attack.TEXT, Attack.CB, Attack.SD)), split=Split.TEST, harmful=True)
    shut = replace(safesteer, gate="probe", threshold=float("-inf"), threshold_picture=float("inf"))
    plain = Undefended().respond(planted, some, SETTINGS)
    for request, response, undefended in zip(some, shut.respond(planted, some, SETTINGS), plain, strict=True):
        words = request.attack is not Attack.SD
        assert response.verdict["guided"] == response.verdict["harmful"] == response.verdict["aligned"] == words
        assert words or response.ids == undefended.ids, "where the gate is shut the answer is the model's own"
    assert "threshold" in Composed((shut, Undefended())).respond(planted, some[:1], SETTINGS)[0].verdict


@pytest.mark.slow
def test_candidates_are_scored_where_the_probe_reads(planted: Any, requests: list[Request]) -> None:
    early = SafeSteer.fit(planted, requests, site="resid_post.4", fit="contrastive", tracing={"progress": False})
    assert str(early.site) == "resid_post.4" and early.prompt_probe.origin_.site == "final_norm"
    assert early.probe.sign_test_ is not None and early.probe.sign_test_.passed
    some = select(requests, attacks=[Attack.SD], split=Split.TEST)
    responses = replace(early, gate="none").respond(planted, some, replace(SETTINGS, explain=True))
    late = SafeSteer.fit(planted, requests, fit="contrastive", gate="none", tracing={"progress": False})
    others = late.respond(planted, some, replace(SETTINGS, explain=True))
    first, second = responses[0].steps[0], others[0].steps[0]
    assert first.candidates == second.candidates and first.scores != second.scores


def test_controls_run_at_equal_budget(planted: Any, safesteer: SafeSteer) -> None:
    some = select(planted_requests(12, attacks=(Attack.CB,)), split=Split.TEST, harmful=True)
    settings = replace(SETTINGS, explain=True)
    for scorer in ("random", "refusal_tokens"):
        control = replace(safesteer, scorer=scorer, alignment=False)
        responses = control.respond(planted, some, settings)
        assert all(len(record.candidates) == 5 for response in responses for record in response.steps)
    assert "refusal_tokens" in str(replace(safesteer, scorer="refusal_tokens").parameters())


def test_custom_generate_answers_as_respond_does(planted: Any, safesteer: SafeSteer) -> None:
    sure = replace(safesteer, beta=float("inf"))
    some = select(planted_requests(6, attacks=(Attack.SD,)), split=Split.TEST)
    greedy = replace(SETTINGS, sampling=Sampling(max_new_tokens=8, temperature=0.0))
    ours = [r.ids for r in sure.respond(planted, some, greedy)]
    batch = planted.encode(some)
    found = planted.model.generate(**batch.inputs, max_new_tokens=8, do_sample=False, custom_generate=sure)
    ends = planted.tokenizer.eos_token_id
    cut = [row[: row.index(ends) + 1] if ends in row else row for row in found[:, batch.input_ids.shape[1] :].tolist()]
    assert cut == ours
    with pytest.raises(UsageError, match="needs a tokenizer"):
        planted.model.generate(**batch.inputs, max_new_tokens=8, custom_generate=replace(sure, scorer="refusal_tokens"))


def test_custom_generate_holds_each_row_to_its_own_threshold(planted: Any, safesteer: SafeSteer) -> None:
    some = select(planted_requests(40, attacks=(Attack.TEXT, Attack.CB, Attack.SD)), split=Split.TEST, harmful=True)
    some = [next(r for r in some if r.attack is attack) for attack in (Attack.SD, Attack.TEXT, Attack.CB, Attack.SD)]
    greedy = replace(SETTINGS, sampling=Sampling(max_new_tokens=8, temperature=0.0), stop=False)
    shut = replace(safesteer, beta=float("inf"), gate="probe", threshold=float("-inf"), threshold_picture=float("inf"))
    batch = planted.encode(some)
    assert rows_showing(planted.model.config, batch.input_ids, batch.inputs) == [True, False, False, True]
    ours = [r.ids for r in shut.respond(planted, some, greedy)]
    options = {**batch.inputs, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "custom_generate": shut}
    found = planted.model.generate(**options, shows=[True, False, False, True])
    assert found[:, batch.input_ids.shape[1] :].tolist() == ours
    always = replace(shut, threshold_picture=float("-inf")).respond(planted, some, greedy)
    assert [a.ids == b for a, b in zip(always, ours, strict=True)] != [True] * 4, "the two thresholds make a difference here"
    with warnings.catch_warnings(record=True) as told:  # this transformers has encoded the pictures already
        warnings.simplefilter("always")
        found = planted.model.generate(**options)[:, batch.input_ids.shape[1] :].tolist()
    assert found[:2] == ours[:2] and found[3] == ours[3], "words beside a picture in the batch are held to the threshold of words"
    assert (found[2] == ours[2]) is not any("blank pictures cannot be told" in str(w.message) for w in told)
    with pytest.raises(UsageError, match="3 entries for 4 rows"):
        planted.model.generate(**options, shows=[True] * 3)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3", "gemma3"])
def test_a_blank_picture_is_told_from_its_pixels(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    drawn = Image.effect_noise((64, 64), 60).convert("RGB")
    some = [Request("What is it?", image, id=str(i)) for i, image in enumerate((drawn, None, Image.new("RGB", (64, 64), "white")))]
    batch = mllm.encode([r for r in some if r.image is not None])
    assert rows_showing(mllm.model.config, batch.input_ids, batch.inputs) == [True, False]
    alone = mllm.encode(some[1:2])
    assert rows_showing(mllm.model.config, alone.input_ids, alone.inputs) == [False]


def test_pictures_that_cannot_be_told_apart_are_said_to_be() -> None:
    config, ids = SimpleNamespace(image_token_id=9), torch.tensor([[9, 9, 1], [9, 1, 1], [1, 1, 1]])
    pixels = torch.zeros(3, 3, 4, 4)
    assert rows_showing(config, ids[:, :2], {"pixel_values": pixels}) == [False] * 3
    pixels[1, 0, 0, 0] = 1.0
    assert rows_showing(config, ids, {"pixel_values": pixels}) == [False, True, False], "one picture a row"
    with pytest.warns(SafeSteerWarning, match="blank pictures cannot be told"):
        assert rows_showing(config, ids, {"pixel_values": pixels.repeat(2, 1, 1, 1)}) == [True, True, False]
