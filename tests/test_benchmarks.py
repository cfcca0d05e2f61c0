"""The scripts that measure run on a CPU with a small model, and what they write is what they print. Times are asserted nowhere here."""

from __future__ import annotations

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
