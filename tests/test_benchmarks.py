"""The scripts that measure run on a CPU with a small model, and what they write is what they print. Times are asserted nowhere here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(words: list[str], root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "PYTHONPATH": str(root), "PYTHON": sys.executable, **environment}
    return subprocess.run(words, cwd=root, env=own, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu_with_a_small_model(root: Path, tmp_path: Path) -> None:
    small = ["--device", "cpu", "--size", "tiny", "--rounds", "1", "--batch", "2", "--tokens", "6", "--ks", "3", "--largest", "2"]
    done = run(["bash", "benchmarks/gpu.sh", str(tmp_path), *small, "--only", "guided_steps", "batches", "answers", "tracers"], root)
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["failed"] == {} and done.returncode == 0, done.stderr[-2000:]
    assert record["model"] == "tiny:qwen2_5_vl" and record["batches"]["largest"] == 2 and list(record["guided_steps"]) == ["3"]
    assert {row["defense"] for row in record["answers"]["rows"]} == {"none", "safesteer", "coca"}
    assert {"bare", "hooks", "nnsight"} <= set(record["tracers"]["batch 1"]) and (tmp_path / "gpu.log").stat().st_size > 0


@pytest.mark.slow
def test_the_promised_ratios_are_measured_in_one_run(root: Path, tmp_path: Path) -> None:
    from safesteer_interp.models import load_model

    mllm = load_model("tiny:llama")
    mllm.model.save_pretrained(tmp_path / "model")
    mllm.processor.save_pretrained(tmp_path / "model")
    small = ["--rounds", "1", "--batch", "2", "--words", "8", "--answers", "planted", "--answer-batch", "2", "--tokens", "6"]
    out = tmp_path / "ratios.json"
    done = run([sys.executable, "benchmarks/ratios.py", "--model", str(tmp_path / "model"), *small, "--out", str(out)], root)
    assert done.returncode in (0, 1), done.stderr[-2000:]  # a tiny model's ratios say nothing: which limits hold is not asked
    record = json.loads(out.read_text())
    assert set(record["ratios"]) == {"hooks", "nnsight", "half on disk", "guided answers"}
    assert all(row["low"] <= row["ratio"] <= row["high"] and row["low"] > 0 for row in record["ratios"].values())
    assert done.returncode == (1 if record["over"] else 0) and done.stdout.count(" at ") == 4
    assert done.stdout.count("MISSED") == len(record["over"])


def test_the_record_of_times_says_of_how_many_findings_it_is(root: Path) -> None:
    spec = importlib.util.spec_from_file_location("figure_time_benchmark", root / "benchmarks" / "figure_time.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.coverage(["a", "b", "c"], ["b", "mine"]) == {"timed": 1, "of": 3, "not_timed": ["a", "c"], "all": False}
    assert script.coverage(["a", "b"], ["b", "a"]) == {"timed": 2, "of": 2, "not_timed": [], "all": True}
    record = json.loads((root / "benchmarks" / "figure_time.json").read_text())
    timed = [row["stage"].removeprefix("analysis: ") for row in record["stages"] if row["stage"].startswith("analysis: ")]
    known = [*timed, *record["findings"]["not_timed"]]
    assert record["findings"] == script.coverage(known, timed) and script.title(record).startswith(f"{len(timed)} of {len(known)} findings")


def test_the_documentation_quotes_what_the_gpu_record_holds(root: Path) -> None:
    record = json.loads((root / "benchmarks" / "gpu.json").read_text())
    page = " ".join((root / "docs" / "howto" / "own-model.md").read_text(encoding="utf-8").split())
    by_batch = {rows: {name: record["tracers"][f"batch {rows}"][name]["ratio"] for name in ("hooks", "nnsight")} for rows in (1, 8)}
    assert f"in batches of 8 prompts at {by_batch[8]['hooks']:.3f} times" in page and f"nnsight {by_batch[8]['nnsight']:.3f})" in page
    assert f"one prompt at a time it was {by_batch[1]['hooks']:.2f} and {by_batch[1]['nnsight']:.2f} times" in page
    assert {f"{row['guided_ratio']:.2f}" for row in record["guided_steps"].values()} == {"1.11"} and "cost 1.11 plain ones" in page
    largest = record["batches"]["largest"]
    peak = record["batches"]["by_batch"][str(largest)]["peak_gb"]
    assert f"batch of {largest} prompts of {record['prompt_tokens']} tokens fitted into {peak:.1f} GB" in page
    assert f"takes {record['memory_of_weights_gb']:.0f} GB for weights" in page
