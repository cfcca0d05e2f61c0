"""A short run of the fuzz (`benchmarks/fuzz.py`), which ends without a finding; and that it would find one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.modules import script

from safesteer_interp.errors import InputError


def fuzz(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(root / "benchmarks" / "fuzz.py"), *arguments]
    return subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.slow
def test_three_hundred_malformed_inputs_end_in_sentences(root: Path) -> None:
    done = fuzz(root, "--n", "300", "--seed", "1", "--kinds", "jsonl,benchmark,options,image,request,checkpoint,defense,store,responses")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "300 cases of seed 1, 0 wrong" in done.stdout


def escape(folder: Path) -> None:
    raise KeyError("nothing of the kind")


def refuse(folder: Path) -> None:
    raise InputError("a sentence")


def print_a_traceback(folder: Path) -> None:
    print("Traceback (most recent call last): ...")


def touch_what_is_not_ours(folder: Path) -> None:
    (folder / "user" / "notes.txt").write_text("ours")


def remove_what_is_not_ours(folder: Path) -> None:
    (folder / "figures" / "prefill_separability" / "planted" / "README.md").unlink()


def leave_half_a_file(folder: Path) -> None:
    (folder / ".table.csv.1.tmp").write_text("a,b")


@pytest.mark.parametrize(
    ("work", "found"),
    [
        (refuse, ""),
        (escape, "KeyError: 'nothing of the kind' [outside the package]"),
        (print_a_traceback, "a traceback was printed"),
        (touch_what_is_not_ours, "changed or gone: ['user/notes.txt']"),
        (remove_what_is_not_ours, "changed or gone: ['figures/prefill_separability/planted/README.md']"),
        (leave_half_a_file, "half-written: ['.table.csv.1.tmp']"),
    ],
)
def test_what_the_fuzz_looks_for_is_found(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], None], found: str
) -> None:
    monkeypatch.chdir(tmp_path)  # which run_case leaves and enters
    kinds = {"made": (lambda rng, folder, bases: work(folder), 1)}
    bases = type("Bases", (), {"note": ""})()
    assert script(root / "benchmarks" / "fuzz.py").run_case(3, 0, kinds, bases, tmp_path) == ("made", found)


def test_parts_of_one_seed_are_added_up(root: Path, tmp_path: Path) -> None:
    keep, out = script(root / "benchmarks" / "fuzz.py").keep, tmp_path / "fuzz.json"
    part = {"seed": 0, "next": 10, "cases": {"jsonl": 8, "image": 2}, "codes": {}, "wrong": [], "seconds": 3}
    keep(out, dict(part), 0)
    keep(out, {**part, "next": 20, "cases": {"jsonl": 10}, "codes": {"run 2": 1}, "wrong": [{"case": 12}]}, 10)
    assert json.loads(out.read_text()) == {
        "seed": 0, "next": 20, "cases": {"image": 2, "jsonl": 18}, "codes": {"run 2": 1}, "wrong": [{"case": 12}], "seconds": 6,
    }  # fmt: skip
    keep(out, {**part, "next": 40}, 30)
    assert json.loads(out.read_text())["cases"] == part["cases"], "a part that does not follow starts anew"


@pytest.mark.parametrize("command", ["run", "trace", "verify", "chat", "sweep", "list"])
def test_a_sound_command_line_has_flags_of_its_own(root: Path, command: str) -> None:
    commands: Any = script(root / "benchmarks" / "fuzz_commands.py")
    flags, positional = commands.options_of(command)
    assert positional is (command in ("run", "verify", "sweep", "list"))
    assert "loading" not in flags and ("dtype" in flags) is (command in ("run", "trace", "chat", "sweep"))
    words = commands.command_line(random.Random(0), command)
    assert words[0] == command and all(isinstance(word, str) for word in words)
