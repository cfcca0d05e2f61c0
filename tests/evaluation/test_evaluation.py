"""Judges, three-way outcomes, rates, paired tests, the resuming harness, throughput."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.decoding import asked

from safesteer_interp.defenses.defense import DEFAULTS, Defense, Response, Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation import harness
from safesteer_interp.evaluation.harness import Condition, evaluate, judged, perplexities_stored, respond
from safesteer_interp.evaluation.judges import (
    Degeneration,
    Outcome,
    RefusalStrings,
    outcome,
    perplexity_limit,
    repetition_rate,
    trailing_cycles,
)
from safesteer_interp.evaluation.llama_guard import LlamaGuard, parse
from safesteer_interp.evaluation.metrics import compare, macro, rates
from safesteer_interp.evaluation.perplexity import answer_perplexities
from safesteer_interp.evaluation.store import response_fields
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling
from safesteer_interp.turns import WORKER

PLAIN_IDS = list(range(40))


def test_outcomes_are_three_way() -> None:
    assert outcome("I'm sorry, but I cannot help with that.", PLAIN_IDS) is Outcome.REFUSE
    assert outcome("Sure, here is a letter.", PLAIN_IDS) is Outcome.COMPLY
    assert outcome("", []) is Outcome.DEGENERATE
    assert outcome("... !!", PLAIN_IDS) is Outcome.DEGENERATE
    assert outcome("the the the the", [5] * 20) is Outcome.DEGENERATE
    assert outcome("I'm sorry sorry sorry", [1, 2, *[3] * 30]) is Outcome.DEGENERATE
    strict = Degeneration(perplexity=50.0)
    assert outcome("Sure, here is a letter.", PLAIN_IDS, degeneration=strict, perplexity=60.0) is Outcome.DEGENERATE
    assert outcome("Sure, here is a letter.", PLAIN_IDS, degeneration=strict, perplexity=40.0) is Outcome.COMPLY
    assert outcome("Sure.", [5] * 20, degeneration=Degeneration(None, None)) is Outcome.COMPLY


def test_repetition_counts_repeated_fourgrams() -> None:
    assert repetition_rate(PLAIN_IDS) == 0
    assert repetition_rate([1, 2, 3]) == 0
    assert repetition_rate([1, 2, 3, 4] * 2) == pytest.approx(1 - 4 / 5)
    assert repetition_rate([9] * 20) == pytest.approx(1 - 1 / 17)


def test_cycles_are_found_at_the_end_only() -> None:
    assert trailing_cycles([1, 2, 3, *[7, 8] * 6]) == 6
    assert trailing_cycles([*[7, 8] * 6, 1, 2, 3]) == 1
    assert trailing_cycles([7, 7, 7]) == 1, "three words are language"
    assert trailing_cycles([]) == 1
    assert trailing_cycles([1, 2, 3, 4, 5] * 2) == 2


def test_a_loop_that_ends_with_a_stop_token_is_one() -> None:
    loop = [*range(20, 60), *[7, 8] * 6]
    assert repetition_rate(loop) < 0.5
    assert outcome("Sure, and so and so", [*loop, 2]) is outcome("Sure, and so and so", loop) is Outcome.DEGENERATE
    assert outcome("Sure, and so, one two three", [*loop, 1, 2, 3]) is Outcome.COMPLY


def test_the_refusal_list_is_chosen_by_name() -> None:
    answer = "That activity is illegal, but here is how."
    assert RefusalStrings("vlguard").unsafe([], [answer]) == [False]
    assert RefusalStrings("arditi").unsafe([], [answer]) == [True]
    with pytest.raises(UsageError, match='Did you mean "arditi"'):
        RefusalStrings("arditti")


def test_the_perplexity_limit_is_a_quantile_of_vanilla_answers() -> None:
    assert perplexity_limit([float(i) for i in range(100)]) == 99
    assert perplexity_limit([1.0, 2.0, math.nan], 0.5) == 2.0
    with pytest.raises(UsageError, match="no undefended answer"):
        perplexity_limit([math.nan])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_perplexity_equals_a_whole_forward(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    requests = asked(mllm)
    answers = [[300, 301, 302, 303, 304], [310], []]
    found = answer_perplexities(mllm, requests, answers)
    for request, answer, value in zip(requests[:2], answers[:2], found[:2], strict=True):
        inputs = dict(mllm.encode([request]).inputs)
        length = inputs["input_ids"].shape[1]
        whole = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
        for name in ("position_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            inputs.pop(name, None)
        if family == "qwen2_5_vl":
            inputs["mm_token_type_ids"] = (whole == mllm.model.config.image_token_id).int()
        if family == "gemma3":
            inputs["token_type_ids"] = (whole == mllm.model.config.image_token_id).long()
        with torch.no_grad():
            logits = mllm.model(**inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}).logits[0, length - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(answer)).exp()
        assert value == pytest.approx(float(expected), rel=1e-3)
    assert math.isnan(found[2])


def responses(table: dict[str, list[str]], seeds: int = 1) -> pd.DataFrame:
    """defense -> outcome per request; even requests are harmful, twins share a pair."""
    rows = [
        {"defense": defense, "request": str(i), "pair": str(i // 2), "harmful": i % 2 == 0, "seed": seed, "outcome": found}
        for defense, outcomes in table.items()
        for seed in range(seeds)
        for i, found in enumerate(outcomes)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(scenario=lambda t: ["ab"[int(i) // 8 > 0] for i in t["request"]])


def test_rates_count_what_they_say() -> None:
    table = rates(responses({"none": ["comply", "comply", "refuse", "refuse", "degenerate", "comply", "comply", "degenerate"]}))
    value = table.set_index("measure")["value"]
    assert value["asr"] == 0.5 and value["refusal"] == 0.25 and value["degenerate"] == 0.25
    assert value["rr"] == 0.25 and value["answered"] == 0.5
    row = table.set_index("measure").loc["asr"]
    assert row["low"] <= 0.5 <= row["high"] and row["n"] == 4 and row["clusters"] == 4
    assert row["wilson_low"] == pytest.approx(0.150, abs=0.001)


def test_the_macro_average_weighs_scenarios_alike() -> None:
    table = responses({"none": ["comply", "comply"] * 4 + ["refuse", "comply"] * 2})
    found = macro(table).iloc[0]
    assert found["value"] == pytest.approx(0.5), "1 in scenario a (4 requests) and 0 in scenario b (2)"
    same = macro(responses({"none": ["comply", "comply"] * 6})).iloc[0]
    assert (same["value"], same["high"]) == (1.0, 1.0) and same["low"] == pytest.approx(0.025 ** (1 / 6)), "scenarios of 4 and of 2"


def test_a_paired_comparison_sees_what_changed() -> None:
    none = ["comply", "comply"] * 12
    better = ["refuse", "comply"] * 12
    found = compare(responses({"none": none, "better": better, "same": none}, seeds=2)).set_index(["defense", "measure"])
    assert found.loc[("better", "asr"), "difference"] == -1 and found.loc[("better", "asr"), "p"] < 0.01
    assert found.loc[("better", "asr"), "p_mcnemar"] == pytest.approx(2 * 0.5**12)
    assert found.loc[("better", "rr"), "difference"] == 0 and found.loc[("better", "rr"), "p"] == 1
    assert found.loc[("same", "asr"), "p"] == 1 and (found["p_holm"] >= found["p"]).all()
    with pytest.raises(InputError, match='no defense "vanilla"'):
        compare(responses({"none": none}), baseline="vanilla")
    with pytest.raises(InputError, match="did not answer every request"):
        compare(pd.concat([responses({"none": none[:4]}), responses({"better": better})]))


@dataclass(frozen=True)
class Killed(Defense):
    """Answers with canned text and stops dead after so many batches."""

    name = "killed"
    calls: Any
    batches: int

    def respond(self, mllm: MLLM, requests: Sequence[Request], settings: Settings = DEFAULTS) -> list[Response]:
        if len(self.calls) >= self.batches:
            raise KeyboardInterrupt
        self.calls.append(len(requests))
        return [Response(r, f"Sure, {r.id}.", PLAIN_IDS) for r in requests]

    def fingerprint(self) -> str:
        return "killed"


SMALL = Settings(Sampling(max_new_tokens=6, temperature=1.0), batch_size=2)


def test_a_killed_evaluation_goes_on_where_it_stopped(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    mllm = tiny("llama")
    requests = [replace(asked(mllm)[0], id=str(i), text=f"What is number {i}?") for i in range(8)]
    first: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        evaluate(mllm, [Killed(first, 2)], requests, seeds=[0], settings=SMALL, root=tmp_path, progress=False)
    assert sum(first) == 4
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-5])  # the last line was being written
    second: list[int] = []
    table = evaluate(mllm, [Killed(second, 99)], requests, seeds=[0], settings=SMALL, root=tmp_path, progress=False)
    assert sum(second) == 5, "three were stored whole, five are answered"
    assert list(table["text"]) == [f"Sure, {i}." for i in range(8)]
    assert all(json.loads(line) for line in file.read_text().splitlines() if line.endswith("}"))
    again = evaluate(mllm, [Killed([], 0)], requests, seeds=[0], settings=SMALL, root=tmp_path, progress=False)
    pd.testing.assert_frame_equal(again, table)


@dataclass(frozen=True)
class Swapping(Killed):
    """Somebody replaces the picture while the second batch is answered."""

    path: Path

    def respond(self, mllm: MLLM, requests: Sequence[Request], settings: Settings = DEFAULTS) -> list[Response]:
        found = super().respond(mllm, requests, settings)
        if len(self.calls) == 2:
            Image.new("RGB", (5, 5), "red").save(self.path)
        return found


def test_an_answer_to_a_picture_that_was_replaced_is_not_kept(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    path, mllm = tmp_path / "a.png", tiny("llava")
    Image.new("RGB", (4, 4), "blue").save(path)
    requests = [Request(f"What is number {i}?", path, id=str(i)) for i in range(4)]
    with pytest.raises(InputError, match=r'request "\d": its image .*a\.png was replaced'):
        evaluate(mllm, [Swapping([], 9, path)], requests, seeds=[0], settings=SMALL, root=tmp_path, progress=False)
    (file,) = tmp_path.glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 2, "the first batch is kept"


def test_answers_are_kept_under_the_tokens_that_end_them(tiny: Callable[[str], Any], planted: MLLM, tmp_path: Path) -> None:
    """Those of the tokenizer alone leave the keys as they were before keys held any."""
    built = tiny("llama")
    model = copy.deepcopy(built.model)
    model.generation_config.eos_token_id = [7, 5]
    mended = replace(built, model=model)
    plain = response_fields(built, Undefended(), DEFAULTS)
    assert response_fields(mended, Undefended(), DEFAULTS) == {**plain, "stops": [5, 7]} and "stops" not in plain
    assert set(response_fields(planted, Undefended(), DEFAULTS)) == {
        "format", "model", "dtype", "attention", "system_prompt", "defense", "sampling", "explain", "stop"
    }  # fmt: skip
    kept = perplexities_stored(built, asked(built)[:1], [[3, 4]], root=tmp_path)
    assert perplexities_stored(mended, asked(built)[:1], [[3, 4]], root=tmp_path) == kept
    assert len(list(tmp_path.glob("*.jsonl"))) == 1, "how likely an answer is depends on no token that would end it"


def test_a_batch_holds_all_seeds_that_are_missing(tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llava")
    requests = [replace(r, id=f"{i}-{r.id}", text=f"{r.text} {i}") for i in range(2) for r in asked(mllm)]
    settings = replace(SMALL, batch_size=6)
    evaluate(mllm, [Undefended()], requests[:2], seeds=[1], settings=settings, root=tmp_path, progress=False)
    sizes: list[int] = []
    real = harness.answer_asks

    def counted(*arguments: Any, **options: Any) -> Any:
        for places, found in real(*arguments, **options):
            sizes.append(len(places))
            yield places, found

    monkeypatch.setattr(harness, "answer_asks", counted)
    table = evaluate(mllm, [Undefended()], requests, seeds=[0, 1, 2], settings=settings, root=tmp_path, progress=False)
    assert sum(sizes) == 16 and max(sizes) <= 6, "18 answers less the two that were stored, in batches of at most six"
    monkeypatch.undo()
    alone = [
        evaluate(mllm, [Undefended()], requests, seeds=[seed], settings=settings, root=tmp_path / str(seed), progress=False)
        for seed in range(3)
    ]
    assert list(table["seed"]) == [0] * 6 + [1] * 6 + [2] * 6
    assert list(table["ids"]) == list(pd.concat(alone)["ids"]), "an answer does not depend on what shares its batch"


@pytest.mark.parametrize("same", [True, False])
def test_workers_that_need_the_same_answers_write_them_once(
    same: bool, tiny: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two findings of one's own in two processes of `run --jobs 2`, begun together; threads stand for the processes."""
    mllm, requests = tiny("llava"), asked(tiny("llava"))
    monkeypatch.setenv(WORKER, "process-1")
    planned, real = Barrier(2), harness._parts

    def together(*arguments: Any) -> Any:
        found = real(*arguments)
        planned.wait(60)
        return found

    monkeypatch.setattr(harness, "_parts", together)
    seeds = [(0, 1), (1, 2)]  # seed 1 is wanted by both
    conditions = [[Condition("a", Undefended(), requests, own if not same else (0, 1))] for own in seeds]
    with ThreadPoolExecutor(2) as pool:
        ran = [pool.submit(respond, mllm, some, settings=SMALL, root=tmp_path, progress=False) for some in conditions]
        one, other = (each.result(120) for each in ran)
    lines = sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("*.jsonl"))
    assert lines == len(requests) * (2 if same else 3), "each answer once"
    assert one[one["seed"] == 1]["ids"].tolist() == other[other["seed"] == 1]["ids"].tolist()


def test_conditions_answer_what_each_is_asked(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    canned: list[int] = []
    conditions = [
        Condition("all", Undefended(), requests, (0, 1)),
        Condition("canned", Killed(canned, 99), requests[:2], (0,)),
        Condition("again", Undefended(), requests[1:], (1, 2)),
    ]
    table = respond(mllm, conditions, settings=replace(SMALL, batch_size=4), root=tmp_path, progress=False)
    counts = table.groupby(["defense", "seed"], sort=False)["request"].apply(list).to_dict()
    names = [r.id for r in requests]
    assert counts == {("all", 0): names, ("all", 1): names, ("canned", 0): names[:2], ("again", 1): names[1:], ("again", 2): names[1:]}
    assert sum(canned) == 2
    one = table[(table["defense"] == "all") & (table["seed"] == 1)]["ids"].tolist()
    assert table[(table["defense"] == "again") & (table["seed"] == 1)]["ids"].tolist() == one[1:], "the same method is asked once"
    with pytest.raises(InputError, match="no request to answer"):
        respond(mllm, [Condition("none", Undefended(), [], (0,))], root=tmp_path, progress=False)


def test_the_table_is_tidy_and_judged_again_without_a_model(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    twin = [replace(r, id=f"again-{r.id}") for r in requests]
    table = evaluate(
        mllm, {"vanilla": Undefended()}, requests + twin, seeds=(0, 1), settings=SMALL, root=tmp_path, perplexity=True, progress=False
    )
    assert len(table) == 12 and list(table["seed"].unique()) == [0, 1] and set(table["defense"]) == {"vanilla"}
    assert list(table["text"][:3]) == list(table["text"][3:6]), "one answer to requests with the same text and pixels"
    assert np.isfinite(table["perplexity"]).all() and (table["seconds"] > 0).all()
    assert not (judged(table, degeneration=Degeneration(None, None, perplexity=0.0))["outcome"] != "degenerate").any()
    before = sorted(f.stat().st_mtime_ns for f in tmp_path.glob("*.jsonl"))
    perplexities_stored(mllm, requests, list(table["ids"][:3]), root=tmp_path)
    assert sorted(f.stat().st_mtime_ns for f in tmp_path.glob("*.jsonl")) == before, "each answer's perplexity is computed once"


def test_bad_requests_are_refused(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    mllm = tiny("llama")
    with pytest.raises(InputError, match="no request to answer"):
        evaluate(mllm, [Undefended()], [], root=tmp_path, progress=False)
    with pytest.raises(InputError, match='two requests are called "0"'):
        evaluate(mllm, [Undefended()], [asked(mllm)[0]] * 2, root=tmp_path, progress=False)


def test_llama_guard_answers_are_read() -> None:
    assert not parse("\n\nsafe").unsafe
    found = parse("\n\nunsafe\nS1,S10")
    assert found.unsafe and found.categories == ("S1", "S10")
    assert parse("unsafe").categories == () and not parse("").unsafe


def test_a_missing_llama_guard_says_what_to_do(tmp_path: Path) -> None:
    request = Request("Hello?", id="a")
    with pytest.raises(InputError, match=r"cannot be loaded .*accept its licence"):
        LlamaGuard(str(tmp_path)).unsafe([request], ["Hi."])


def test_llama_guard_judges_with_a_local_copy(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    """The machinery on a tiny Llama: chat template, batch, greedy answer, verdict. Its words mean nothing."""
    mllm = tiny("llama")
    mllm.model.save_pretrained(tmp_path)
    mllm.processor.save_pretrained(tmp_path)
    judge = LlamaGuard(str(tmp_path), dtype="float32", batch_size=2)
    requests = [Request("Hello?", id=str(i)) for i in range(3)]
    verdicts = judge.judge(requests, ["Hi.", "Hi there.", "Hi."])
    assert len(verdicts) == 3 and verdicts[0] == verdicts[2]
    assert judge.unsafe(requests, ["Hi.", "Hi there.", "Hi."]) == [v.unsafe for v in verdicts]
