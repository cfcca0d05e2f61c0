"""`safesteer compare`: runs from the command line, says beforehand what it will cost, resumes, and refuses what makes no sense."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest

from safesteer_interp.cli import comparing
from safesteer_interp.cli.compare import Compare
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.evaluation.comparison import Benchmark
from safesteer_interp.evaluation.results import Results
from safesteer_interp.requests import Request

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--model", "planted", "--benchmarks", "planted", "--pairs", "2", "--seeds", "0", "--max-new-tokens", "8", "--training-pairs", "8")


@pytest.mark.slow
def test_methods_are_compared_and_written(safesteer: Run, fresh_cache: Path, tmp_path: Path) -> None:
    chosen = (*SMALL, "--defenses", "coca:alpha=1", "conformal", "--cost-sample", "2", "--out", str(tmp_path))
    code, out, err = safesteer("compare", *chosen, "--dry-run", "--json")
    planned = json.loads(out)
    assert code == 0 and planned["answers"] == 3 * 20 and planned["stored"] == 0 and planned["tokens"] == 3 * 20 * 8
    assert planned["methods"] == ["none", "coca:alpha=1", "conformal"] and planned["verdicts"] == 0 and planned["minutes"] > 0
    assert any("conformal is fitted first" in note for note in planned["notes"])
    code, out, err = safesteer("compare", *chosen)
    assert code == 0 and "orders that hold under every judge" in out and "coca:alpha=1" in out
    assert "planted (not refused of harmful / refused of harmless): none" in err
    folder = tmp_path / "planted"
    rates = pd.read_csv(folder / "rates.csv")
    assert set(rates["method"]) == {"none", "coca:alpha=1", "conformal"} and set(rates["benchmark"]) == {"planted"}
    rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and {r["harmful"] for r in rows} == {True, False}
    assert "threshold" in json.loads((folder / "methods.json").read_text())["conformal"]
    before = (folder / "answers.jsonl").read_bytes()
    code, out, err = safesteer("compare", *chosen, "--json")
    assert code == 0 and (folder / "answers.jsonl").read_bytes() == before, "nothing is answered anew"
    assert {"rates", "orders", "agreement", "costs", "plane"} <= set(json.loads(out))
    code, out, err = safesteer("compare", *chosen, "--dry-run")
    assert "40 stored already" in out, "of the two that need no fit"


def test_all_that_is_kept_lies_in_and_beside_the_store(safesteer: Run, fresh_cache: Path, tmp_path: Path) -> None:
    own = tmp_path / "judge.py"
    own.write_text(
        "from dataclasses import dataclass\nfrom safesteer_interp.evaluation.judge import Judge, Verdict\n\n\n@dataclass(frozen=True)\n"
        "class Mine(Judge):\n    kind, costly = 'mine', True\n\n    def judge(self, requests, answers):\n"
        "        return [Verdict(False)] * len(answers)\n"
    )
    chosen = ("--defenses", "conformal", "shiftdc", "safesteer:preset=corrected,force=true,scaled=true", "--judges", f"{own}:Mine",
              "--cost-sample", "0", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "mine"))  # fmt: skip
    code, _, err = safesteer("compare", *SMALL, *chosen)
    assert code == 0, err
    kept = {path.name: sum(p.is_file() for p in path.rglob("*")) for path in tmp_path.iterdir() if path.name.startswith("mine")}
    assert set(kept) == {"mine", "mine-responses", "mine-verdicts", "mine-candidates"} and min(kept.values()) > 0
    assert len(list((tmp_path / "mine").glob("*/manifest.json"))) == 2, "one trace for the probes, one of every layer"
    assert not [name for name in ("traces", "responses", "candidates", "verdicts") if (fresh_cache / name).exists()]
    _, out, _ = safesteer("compare", *SMALL, *chosen, "--dry-run", "--json")
    assert json.loads(out)["stored"] == 20, "those of the one that needs no fit"


def test_two_checkpoints_of_one_name_share_no_folder(safesteer: Run, fresh_cache: Path, tmp_path: Path, tiny: Callable[[str], Any]) -> None:
    few = (
        "--defenses",
        "none",
        "self_reminder",
        "--benchmarks",
        "utility",
        "--pairs",
        "2",
        "--seeds",
        "0",
        "--max-new-tokens",
        "2",
        "--cost-sample",
        "0",
    )
    for place in ("a", "b"):
        folder = tmp_path / place / "checkpoint-500"
        tiny("llama").model.save_pretrained(folder)
        tiny("llama").processor.save_pretrained(folder)
        code, _, err = safesteer("compare", "--model", str(folder), *few, "--out", str(tmp_path / "out"))
        assert code == 0, err
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert len(names) == 2 and all(name.startswith("checkpoint-500-") for name in names)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--defenses", "cocoa"), 'no defense is called "cocoa"'),
        (("--defenses", "coca:beta=1"), 'has no option "beta"'),
        (("--judges", "oracle"), 'no judge is called "oracle"'),
        (("--benchmarks", "plant"), 'data set "plant" is unknown'),
        (("--attacks", "SOUND"), "has no request of these"),
        (("--pairs", "0"), "--pairs 0 leaves nothing"),
        (("--seeds", "x"), '--seeds "x" is no list of whole numbers'),
        (("--max-new-tokens", "0"), "--max-new-tokens 0 is not possible"),
        (("--benchmarks", "figstep", "--data-root", "nowhere"), "nowhere is not a folder"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(safesteer: Run, words: tuple[str, ...], sentence: str) -> None:
    code, out, err = safesteer("compare", *SMALL, *words)
    assert code in (2, 3) and sentence in err and "Traceback" not in err and not out


def test_a_seed_counts_once() -> None:
    assert comparing.seeds_of("0-2,2,7") == (0, 1, 2, 7)


@pytest.mark.slow
def test_a_method_this_model_cannot_have_is_left_out_of_all(safesteer: Run, fresh_cache: Path, tmp_path: Path) -> None:
    """The tiny random model answers everything: JRS-Rem and refusal steering have nothing to be fitted on."""
    code, _, err = safesteer(
        "compare", "--model", "tiny:llava", "--benchmarks", "planted", "--training", "planted", "--pairs", "1", "--seeds", "0",
        "--max-new-tokens", "6", "--training-pairs", "4", "--cost-sample", "0", "--out", str(tmp_path), "--attacks", "SD",
    )  # fmt: skip
    assert code == 0, err
    assert "left out: jrs_rem (" in err
    methods = set(pd.read_csv(tmp_path / "tiny-llava" / "rates.csv")["method"])
    assert {"none", "coca", "ecso", "adashield", "shiftdc"} <= methods and "jrs_rem" not in methods


@pytest.mark.parametrize(("asked", "there", "picked"), [(32, 400, 32), (8, 400, 8), (3, 10, 3), (1, 10, 1), (8, 5, 5)])
def test_costs_are_counted_on_as_many_requests_as_asked(asked: int, there: int, picked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[Any] = []
    for name in ("answer_benchmarks", "judge_answers"):
        monkeypatch.setattr(comparing, name, MagicMock())
    monkeypatch.setattr(comparing, "Results", MagicMock(of=MagicMock(return_value=MagicMock(spec=Results))))
    monkeypatch.setattr(comparing, "costs", lambda mllm, methods, sample, *, settings: counted.extend(sample))
    work = comparing.Work.__new__(comparing.Work)
    work.asked, work.mllm, work.settings, work.seeds, work.judges = Compare(cost_sample=asked), MagicMock(), Settings(), (0,), ()
    requests = [Request(id=str(n), text="How do I bake bread?", harmful=False) for n in range(there)]
    work.benchmarks = [Benchmark("one", requests[: there // 2]), Benchmark("two", requests[there // 2 :])]
    monkeypatch.setattr(work, "methods", lambda: {"none": MagicMock(), "other": MagicMock()})
    work.results()
    chosen = [int(r.id) for r in counted]
    assert len(chosen) == picked and len({b - a for a, b in pairwise(chosen)}) <= 1, "evenly spread"
    assert chosen[:2] == [n * max(1, there // asked) for n in range(len(chosen[:2]))]
