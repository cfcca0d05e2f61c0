"""A short run of the kills (`benchmarks/kills.py`), which end without a loss; and that it would see one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.modules import script


@pytest.mark.long
def test_six_kills_lose_and_double_nothing(root: Path) -> None:
    words = [sys.executable, str(root / "benchmarks" / "kills.py"), "--kills", "6", "--only", "trace,run", "--seed", "1"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "6 kills of seed 1, 0 wrong" in done.stdout


def test_what_is_lost_doubled_or_changed_is_seen(root: Path, tmp_path: Path) -> None:
    kills: Any = script(root / "benchmarks" / "kills.py")
    (tmp_path / "a").mkdir()
    for name in ("kept.csv", "lost.csv", "changed.csv"):
        (tmp_path / "a" / name).write_text("1\n")
    before = kills.files_of(tmp_path)
    (tmp_path / "a" / "lost.csv").unlink()
    (tmp_path / "a" / "changed.csv").write_text("2\n")
    (tmp_path / "a" / ".changed.csv.x.tmp").write_text("half")
    found = kills.differences(before, kills.files_of(tmp_path))
    assert found == ["lost: a/lost.csv", "further: a/.changed.csv.x.tmp", "differs: a/changed.csv"]
    assert kills.differences(before, before) == []


def test_stored_answers_are_compared_without_the_clock_and_a_doubled_one_is_seen(root: Path, tmp_path: Path) -> None:
    kills: Any = script(root / "benchmarks" / "kills.py")
    place = tmp_path / "responses" / "a.jsonl"
    place.parent.mkdir()
    one, two = ({"key": key, "text": "yes", "seconds": seconds, "check": f"{seconds}"} for key, seconds in (("x", 0.1), ("y", 0.2)))
    seen = []
    for lines in ([one, two], [{**two, "seconds": 9.0, "check": "9"}, one], [one, two, two], [one], [{**one, "text": "no"}, two]):
        place.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"key": "torn')
        seen.append(kills.content(place))
    assert seen[0] == seen[1] and len(set(seen)) == 4
