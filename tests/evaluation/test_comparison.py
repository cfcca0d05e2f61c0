"""Comparisons: answered once, judged by a panel, counted with what was not judged, exported whatever models write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safesteer_interp.datasets.registry import grader_of, load_requests
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.comparison import (
    PANEL,
    Benchmark,
    agreement_table,
    answer_benchmarks,
    judge_answers,
    outcome_table,
    rate_table,
    stored_answers,
)
from safesteer_interp.evaluation.cost import costs, counting
from safesteer_interp.evaluation.judge import Judge, Verdict
from safesteer_interp.evaluation.refusal_strings import RefusalStrings
from safesteer_interp.evaluation.results import Results
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0), batch_size=32)
HOSTILE = '<script>alert(1)</script>\x1b[31m red\x1b[0m \ud83d half \u2028 line, "quoted"\n\0' + "x" * 100_000


@dataclass(frozen=True)
class Word(Judge):
    """Unsafe where a word stands in the answer; says nothing of answers with another word."""

    kind = "word"
    word: str = "sure"
    silent: str = "gladly"

    @property
    def name(self) -> str:
        return f"word {self.word}"

    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        assert all(r.harmful for r in requests), "a judge of harm is asked about harmful requests only"
        return [Verdict(None if self.silent in a else self.word in a) for a in answers]


@pytest.fixture(scope="module")
def benchmarks() -> list[Benchmark]:
    some = planted_requests(8)
    return [Benchmark("text", [r for r in some if r.image is None]), Benchmark("picture", [r for r in some if r.attack.in_image])]


@pytest.fixture(scope="module")
def answers(planted: Any, benchmarks: list[Benchmark], tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    root = tmp_path_factory.mktemp("answers")
    return answer_benchmarks(planted, {"none": Undefended(), "coca": CoCA()}, benchmarks, seeds=(0, 1), settings=SETTINGS, root=root,
                             progress=False)  # fmt: skip


def test_every_method_answers_every_request_under_every_seed(answers: pd.DataFrame, benchmarks: list[Benchmark]) -> None:
    counts = answers.groupby(["method", "benchmark"]).size()
    assert counts.to_dict() == {(m, b.name): 2 * len(b.requests) for m in ("none", "coca") for b in benchmarks}
    assert not answers.duplicated(["method", "benchmark", "request", "seed"]).any()


def test_answers_are_kept_and_told(planted: Any, benchmarks: list[Benchmark], tmp_path: Path) -> None:
    told: list[str] = []
    ask = {"seeds": (0,), "settings": SETTINGS, "root": tmp_path, "progress": False}
    first = answer_benchmarks(planted, {"none": Undefended()}, benchmarks, told=lambda t: told.append(t["benchmark"].iloc[0]), **ask)
    assert told == ["text", "picture"]
    held = [stored_answers(planted, Undefended(), b.requests, (0,), SETTINGS, tmp_path) for b in benchmarks]
    assert held == [len(b.requests) for b in benchmarks]
    assert stored_answers(planted, Undefended(), benchmarks[0].requests, (1,), SETTINGS, tmp_path) == 0
    again = answer_benchmarks(planted, {"none": Undefended()}, benchmarks, **ask)
    pd.testing.assert_frame_equal(first, again)
    with pytest.raises(InputError, match="two benchmarks have one name"):
        answer_benchmarks(planted, {"none": Undefended()}, [benchmarks[0]] * 2, **ask)
    with pytest.raises(UsageError, match="at least one method"):
        answer_benchmarks(planted, {}, benchmarks, **ask)


def test_the_panel_judges_and_says_what_it_did_not(answers: pd.DataFrame, benchmarks: list[Benchmark]) -> None:
    found = judge_answers(answers, benchmarks, (RefusalStrings(), Word()))
    rates = rate_table(found.hits).set_index(["method", "benchmark", "judge", "measure"])
    plain = found.answers
    asked = plain[(plain["method"] == "none") & (plain["benchmark"] == "picture")]
    harmful, harmless = asked[asked["harmful"]], asked[~asked["harmful"]]
    strings = rates.loc[("none", "picture", "refusal strings (default)")]
    assert strings.loc["asr", "value"] == pytest.approx((harmful["outcome"] == "comply").mean())
    assert strings.loc["rr", "value"] == pytest.approx((harmless["outcome"] == "refuse").mean())
    word = rates.loc[("none", "picture", "word sure")]
    silent = int(harmful["text"].str.contains("gladly").sum())
    assert word.loc["asr", "unjudged"] == silent > 0 and word.loc["asr", "n"] == len(harmful) - silent
    assert word.loc["asr", "value"] == pytest.approx(harmful["text"].str.contains("sure").sum() / (len(harmful) - silent))
    assert "rr" not in word.index, "a judge of harm says nothing about harmless requests"
    outcomes = outcome_table(plain).groupby(["method", "benchmark", "class"])["value"].sum()
    assert np.allclose(outcomes, 1)
    with pytest.raises(UsageError, match="each with its own name"):
        judge_answers(answers, benchmarks, (RefusalStrings(), RefusalStrings()))
    harmless = [replace(b, requests=[r for r in b.requests if not r.harmful]) for b in benchmarks]
    with pytest.raises(UsageError, match=r"word sure would judge no answer to text, picture: judges of harm .*--judges refusal_strings"):
        judge_answers(answers[~answers["harmful"]], harmless, (Word(),))
    assert len(judge_answers(answers[~answers["harmful"]], harmless, (Word(), RefusalStrings())).hits), "refusals are judged"


def test_macro_is_the_mean_over_scenarios() -> None:
    rows = [{"method": "m", "benchmark": "b", "judge": "j", "measure": "asr", "request": f"{s}{i}", "seed": 0, "pair": f"{s}{i}",
             "scenario": s, "hit": hit} for s, found in (("x", [1, 1, 1, 1]), ("y", [0, 1])) for i, hit in enumerate(found)]  # fmt: skip
    found = rate_table(pd.DataFrame(rows)).iloc[0]
    assert found["value"] == pytest.approx(5 / 6) and found["macro"] == pytest.approx((1.0 + 0.5) / 2) and found["scenarios"] == 2
    assert found["low"] <= found["value"] <= found["high"] and found["wilson_low"] < found["value"] < found["wilson_high"]
    same = rate_table(pd.DataFrame(rows).assign(hit=1)).iloc[0]
    assert (same["macro"], same["macro_high"]) == (1.0, 1.0) and same["macro_low"] == pytest.approx(0.025 ** (1 / 6))


def test_degenerate_answers_are_no_success_under_any_judge(answers: pd.DataFrame, benchmarks: list[Benchmark]) -> None:
    broken = answers.assign(text="sure sure", ids=[[7] * 30] * len(answers))
    found = judge_answers(broken, benchmarks, (RefusalStrings(), Word()))
    assert set(found.answers["outcome"]) == {"degenerate"}
    assert float(found.hits[found.hits["measure"] == "asr"]["hit"].max()) == 0


def test_judges_agree_with_themselves_and_kappa_has_an_interval(answers: pd.DataFrame, benchmarks: list[Benchmark]) -> None:
    found = agreement_table(judge_answers(answers, benchmarks, (*PANEL[:2], Word(word="nothing", silent="nowhere"))).hits)
    by = found.set_index(["first", "second"])
    alike = by.loc[(PANEL[0].name, PANEL[1].name)]
    assert alike["value"] == alike["agree"] == 1 and alike["n"] == 2 * 2 * 32
    never = by.loc[(PANEL[0].name, "word nothing")]
    assert never["value"] == 0 and 0 < never["agree"] < 1


def test_known_answers_are_graded() -> None:
    requests = load_requests("utility:skills=text")
    grade = grader_of("utility")
    assert grade is not None and grader_of("bundled") is None
    assert grade(planted_requests(1)[0], "x") is None
    answers = pd.DataFrame(
        [{"method": "none", "benchmark": "utility", "request": r.id, "seed": 0, "pair": r.pair, "scenario": "text", "attack": "none",
          "harmful": False, "text": "nonsense", "ids": [1, 2], "perplexity": float("nan")} for r in requests]
    )  # fmt: skip
    found = judge_answers(answers, [Benchmark("utility", requests, grade)])
    rates = rate_table(found.hits)
    assert rates[rates["measure"] == "accuracy"]["value"].tolist() == [0.0]


class Hostile(StagedDefense):
    """Answers with what breaks pages, terminals and files."""

    name = "hostile"

    def review(self, mllm: Any, responses: list[Any], settings: Settings) -> list[Any]:
        return [replace(r, text=HOSTILE) for r in responses]


def test_hostile_answers_break_no_file(planted: Any, benchmarks: list[Benchmark], tmp_path: Path) -> None:
    methods = {"none": Undefended(), "=cmd()": Hostile()}
    some = [Benchmark("text", benchmarks[0].requests[:4])]
    table = answer_benchmarks(planted, methods, some, seeds=(0,), settings=SETTINGS, root=tmp_path, progress=False)
    again = answer_benchmarks(planted, methods, some, seeds=(0,), settings=SETTINGS, root=tmp_path, progress=False)
    assert list(table["text"]) == list(again["text"]) and HOSTILE in set(table["text"])
    comparison = judge_answers(table, some)
    results = Results.of("a/model\n", comparison, some, costs(planted, methods, some[0].requests[:1], settings=SETTINGS))
    folder = results.save(tmp_path / "out")
    assert folder.parent == tmp_path / "out"
    lines = (folder / "answers.jsonl").read_bytes().split(b"\n")[:-1]
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 8 and all(line.isascii() for line in lines)
    assert [row["answer"] for row in rows if row["method"] == "=cmd()"] == [HOSTILE] * 4
    assert {"verdicts", "outcome", "intent", "decided", "harmful", "attack"} <= set(rows[0])
    for file in folder.glob("*.csv"):
        assert len(pd.read_csv(file)), file
    shown = results.printed()
    assert any("cost" in title for title in shown) and all(isinstance(t, pd.DataFrame) for t in shown.values())


def test_a_row_says_unsafe_where_any_judge_of_harm_does_and_no_list_of_refusals() -> None:
    request = next(r for r in planted_requests(1) if r.harmful)
    texts = ["I cannot do that. sure", "I cannot do that. here", "Yes. here"]
    answers = pd.DataFrame(
        [{"method": f"m{i}", "benchmark": "b", "request": request.id, "seed": 0, "pair": request.pair, "scenario": "text",
          "attack": "none", "harmful": True, "text": text, "ids": list(range(9)), "n_tokens": 9, "perplexity": float("nan"), "verdict": {}}
         for i, text in enumerate(texts)]
    )  # fmt: skip
    panel = (RefusalStrings(), RefusalStrings("jrs"), Word("nothing"), Word("sure"))
    some = [Benchmark("b", [request])]
    results = Results.of("m", judge_answers(answers, some, panel), some)
    rows = results.answer_rows()
    assert results.harm == ("word nothing", "word sure")
    assert [row["outcome"] for row in rows] == ["refuse", "refuse", "comply"] and [row["unsafe"] for row in rows] == [True, False, False]


def test_the_plane_marks_what_nothing_beats(answers: pd.DataFrame, benchmarks: list[Benchmark]) -> None:
    results = Results.of("planted", judge_answers(answers, benchmarks), benchmarks)
    plane = results.plane().set_index("method")
    assert plane["front"].any()
    for name, row in plane.iterrows():
        beaten = [(o.asr <= row.asr and o.rr <= row.rr and (o.asr < row.asr or o.rr < row.rr)) for n, o in plane.iterrows() if n != name]
        assert row["front"] == (not any(beaten))


def test_costs_are_counted_by_row_and_without_padding(planted: Any) -> None:
    """CoCA reads two branches: twice the forwards, and the tokens of both prompts."""
    requests = [r for r in planted_requests(3) if r.image is None][:4]
    greedy = Settings(Sampling(max_new_tokens=5, temperature=0.0), batch_size=4, stop=False)
    found = costs(planted, {"none": Undefended(), "coca": CoCA()}, requests, settings=greedy).set_index("method")
    lengths = [int(planted.encode([r]).inputs["attention_mask"].sum()) for r in requests]
    assert found.loc["none", "forwards"] == 5 and found.loc["coca", "forwards"] == 10
    assert found.loc["none", "tokens_read"] == np.mean(lengths) + 4 and found.loc["none", "tokens_written"] == 5
    assert found.loc["coca", "forwards_ratio"] == 2 and found.loc["none", "tokens_ratio"] == 1
    with counting(planted) as count:
        pass
    assert (count.forwards, count.tokens) == (0, 0)


class Asking(StagedDefense):
    """Asks the model about every request before it answers, and notes how often."""

    name = "asking"
    prepares = True

    def rewrites(self, mllm: Any, requests: Sequence[Request], settings: Settings) -> list[Request]:
        ASKED.append(len(requests))
        return list(requests)


ASKED: list[int] = []


@pytest.mark.parametrize("stops", [1, 2, 3])
def test_a_kill_loses_no_answer_and_doubles_none(stops: int, planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at the n-th write, the same call goes on: every answer is there once, and equals that of an undisturbed run."""
    from safesteer_interp.evaluation.store import ResponseStore

    some = [Benchmark("text", planted_requests(6)[:24])]
    ask: dict[str, Any] = {"seeds": (0, 1), "settings": replace(SETTINGS, batch_size=8), "progress": False}
    methods = {"none": Undefended(), "asking": Asking()}
    whole = answer_benchmarks(planted, methods, some, root=tmp_path / "whole", **ask)
    writes, add = 0, ResponseStore.add

    def dying(self: ResponseStore, records: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > stops:
            raise KeyboardInterrupt
        add(self, records)

    monkeypatch.setattr(ResponseStore, "add", dying)
    with pytest.raises(KeyboardInterrupt):
        answer_benchmarks(planted, methods, some, root=tmp_path / "killed", **ask)
    monkeypatch.setattr(ResponseStore, "add", add)
    ASKED.clear()
    resumed = answer_benchmarks(planted, methods, some, root=tmp_path / "killed", **ask)
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), resumed.drop(columns="seconds"))
    for file in (tmp_path / "killed").rglob("*.jsonl"):
        keys = [json.loads(line)["key"] for line in file.read_bytes().splitlines()]
        assert len(keys) == len(set(keys))
    assert max(ASKED) <= 8, "requests are prepared some at a time, both seeds together"
    assert sum(ASKED) <= len({r.key() for r in some[0].requests})
