"""A short run of the fuzz (`benchmarks/fuzz.py`), which ends without a finding; and that it would find one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def fuzz(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(root / "benchmarks" / "fuzz.py"), *arguments]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=900, check=False)


def test_three_hundred_malformed_inputs_end_in_sentences(root: Path) -> None:
    done = fuzz(root, "--n", "300", "--seed", "1", "--kinds", "jsonl,benchmark,options,image,request,checkpoint,defense,store,responses")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "300 cases of seed 1, 0 wrong" in done.stdout
