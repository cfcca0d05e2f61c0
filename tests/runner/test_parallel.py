"""Several processes for one run: the files of one process, a death that is said and resumed, and no process that outlives the run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.analysis_toys import bench_on, write_toys

from safesteer_interp import runner
from safesteer_interp.errors import UsageError
from safesteer_interp.files import sha256_of
from safesteer_interp.runner.typical import AFTER, SECONDS

TOYS = ("readable", "lengths")
MEASURING = "    counts = trace"
"""Where `lengths` measures."""


def start(folder: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    """`safesteer run` of the toys on the known-answer model, in a process of its own."""
    ids = [path.stem for path in sorted(folder.glob("[!_]*.py"))]
    command = [sys.executable, "-m", "safesteer_interp", "run", *ids, "--model", "planted", "--analyses", str(folder), "--out", str(out)]
    command += ["--store", str(out.parent / f"store-{out.name}"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_several_jobs_need_a_model_by_name_and_a_number_that_does_something(planted: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a session"):
        runner.run(["layer_choice"], session=bench_on(planted, tmp_path), jobs=2)
    with pytest.raises(UsageError, match="--jobs 0"):
        runner.run(["layer_choice"], model="planted", jobs=0)


@pytest.mark.slow
def test_two_processes_write_the_files_of_one_and_leave_finished_ones_alone(fresh_cache: Path, tmp_path: Path) -> None:
    folder = write_toys(tmp_path, *TOYS)
    code, said = ended(start(folder, tmp_path / "many", "--jobs", "2"))
    assert code == 0 and "2 done" in said and "2 at once" in said, said
    code, again = ended(start(folder, tmp_path / "many", "--jobs", "2"))
    assert code == 0 and "2 unchanged" in again, again
    code, one = ended(start(folder, tmp_path / "one", "--fresh"))
    assert code == 0 and "[1/2]" in one and "[2/2]" in one, one
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.slow
def test_a_process_that_dies_is_said_and_the_same_command_goes_on(fresh_cache: Path, tmp_path: Path) -> None:
    folder = write_toys(tmp_path, *TOYS)
    toy = folder / "lengths.py"
    whole = toy.read_text()
    toy.write_text(whole.replace(MEASURING, f"    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n{MEASURING}"))
    code, said = ended(start(folder, tmp_path / "figures", "--jobs", "2"))
    assert code != 0 and "ended without a word" in said and "Traceback" not in said, said
    assert "ended without a word" in json.loads((tmp_path / "figures" / "lengths" / "planted" / "failed.json").read_text())["reason"]
    toy.write_text(whole)
    code, said = ended(start(folder, tmp_path / "figures", "--jobs", "2"))
    assert code == 0 and "failed" not in said, said
    assert (tmp_path / "figures" / "readable" / "planted" / "claims.json").is_file()


@pytest.mark.slow
def test_processes_end_with_a_run_that_is_killed(fresh_cache: Path, tmp_path: Path) -> None:
    folder = write_toys(tmp_path, *TOYS)
    toy, begun = folder / "lengths.py", tmp_path / "begun"
    waiting = f"    import time; open({str(begun)!r}, 'w').close(); time.sleep(600)\n"
    toy.write_text(toy.read_text().replace(MEASURING, f"{waiting}{MEASURING}"))
    process = start(folder, tmp_path / "figures", "--jobs", "2")
    deadline = time.monotonic() + 200
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert begun.exists() and len(children) >= 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, alive


def test_every_typical_time_is_of_a_shipped_finding_and_no_finding_waits_for_itself() -> None:
    shipped = {analysis.id for analysis in runner.discover().choose([])}
    assert set(SECONDS) | {"throughput"} == shipped, "a finding that is new or gone: what is timed runs by itself and needs none"
    assert set(AFTER) <= shipped and all(set(others) <= shipped - {name} for name, others in AFTER.items())
    assert not set(AFTER) & {other for others in AFTER.values() for other in others}, "chains would need an order"
