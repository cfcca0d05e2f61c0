"""Kills `trace`, `run`, `compare` and `report` at random moments, and looks whether the same command resumes and ends with the same files.

    python benchmarks/kills.py [--kills 50] [--seed 0] [--only trace,run] [--out benchmarks/kills.json]

Every command first runs to its end once, undisturbed: its files are the yardstick. Then, in a folder of its own, it is started and
killed (SIGKILL) after a random share of the time it took, again and again. Whenever it comes to its end before the kill, its files are
compared and it starts anew in an empty folder, so that every kill meets work. Nothing may be lost (every file of the yardstick is
there, with its bytes) and nothing doubled (no further file, no half-written one). Commands are forked from a process that has imported
what they need, so that kills fall into their work and not into imports. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from safesteer_interp.cli import main

PLANTED = ["--model", "planted", "--store", "store"]
RUN = ["run", "prefill_separability", *PLANTED, "--out", "figures", "--set", "pairs=8"]
SCRIPTS: dict[str, list[list[str]]] = {
    "trace": [["trace", *PLANTED, "--requests", "planted", "--sites", "all", "--reads", "last_prompt"]],
    "run": [RUN],
    "report": [RUN, ["report", "--figures", "figures"]],
    "compare": [["compare", "--model", "planted", "--defenses", "ecso", "--benchmarks", "planted", "--pairs", "6", "--seeds", "0",
                 "--max-new-tokens", "4", "--batch-size", "8", "--cost-sample", "0"]],
}  # fmt: skip
"""Command -> what is run; the last line is the one that is killed, those before it are run to their end first."""
RUN_FACTS = (".lock", ".pid", ".log")
"""Ends of names of files about the run itself: who holds a lock, what was said. They differ by design."""
RUN_FOLDERS = {".locks", "runs"}
"""Folders of such files: `runs`, in the user's cache, says when and where a result was computed."""
HEAVY = ("torch", "transformers", "nnsight", "pandas", "sklearn.linear_model", "matplotlib.pyplot", "safesteer_interp.runner.execute",
         "safesteer_interp.report.render", "safesteer_interp.report.pages", "safesteer_interp.models.planted")  # fmt: skip


def start(command: list[str], folder: Path) -> int:
    """The command in a forked process of its own, in a cache of its own; its id. What it says goes to `<folder>.said`."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        os.chdir(folder)
        os.environ |= {"SAFESTEER_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
        said = os.open(folder.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        code = main(command)
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 70
    finally:
        os._exit(code)


def ended(child: int, seconds: float | None = None) -> int | None:
    """Waits for a process; its exit code, or None when it still runs after so many seconds."""
    until = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG if until is not None else 0)
        if done:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.002)


def finish(command: list[str], folder: Path) -> float:
    """Runs a command to its end; seconds it took. Raises SystemExit, with its last words, when it fails."""
    begun = time.monotonic()
    check(ended(start(command, folder)), command, folder)
    return time.monotonic() - begun


def check(code: int | None, command: list[str], folder: Path) -> None:
    if code:
        said = folder.with_suffix(".said").read_text(encoding="utf-8", errors="replace")
        raise SystemExit(f"{' '.join(command)} ended with {code}: {said[-800:]}")


def files_of(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder but those about the run itself."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(RUN_FACTS)]
    return {str(p.relative_to(folder)): content(p) for p in found if not RUN_FOLDERS & set(p.relative_to(folder).parts)}


def content(path: Path) -> str:
    """Hash of a file; of provenance and stored answers without what the clock says."""
    if path.name == "provenance.json":
        record = json.loads(path.read_text(encoding="utf-8"))
        record.pop("run", None)
    elif path.suffix == ".jsonl" and path.parent.name == "responses":
        record = answers(path)
    else:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def answers(path: Path) -> list[str]:
    """Stored answers without the seconds each took, in one order; one that is there twice is kept twice. A torn line is none."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        with suppress(ValueError):
            record = json.loads(line)
            found.append(json.dumps({k: v for k, v in record.items() if k not in ("seconds", "check")}, sort_keys=True))
    return sorted(found)


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What was lost, doubled or changed."""
    wrong = [f"lost: {path}" for path in expected if path not in found]
    wrong += [f"further: {path}" for path in found if path not in expected]
    return wrong + [f"differs: {path}" for path in expected if path in found and found[path] != expected[path]]


def try_kills(name: str, kills: int, rng: random.Random, root: Path) -> tuple[int, list[str]]:
    """(times it came to its end, what differed then from the undisturbed run)."""
    *before, command = SCRIPTS[name]
    fresh, whole, killed = (root / f"{name}-{what}" for what in ("fresh", "whole", "killed"))
    fresh.mkdir()
    for step in before:
        finish(step, fresh)
    shutil.copytree(fresh, whole)
    took = finish(command, whole)
    expected = files_of(whole)
    shutil.copytree(fresh, killed)
    met, ends = 0, 0
    wrong: list[str] = []
    while True:
        child = start(command, killed)
        code = ended(child, rng.uniform(0.02, 1.0) * took if met < kills else None)
        if code is None:
            os.kill(child, signal.SIGKILL)
            ended(child)
            met += 1
            continue
        check(code, command, killed)
        ends += 1
        wrong += differences(expected, files_of(killed))
        if met >= kills:
            return ends, [f"{name}: {what}" for what in wrong]
        shutil.rmtree(killed)
        shutil.copytree(fresh, killed)


def run() -> int:
    """Prints a line per command and a summary."""
    parser = argparse.ArgumentParser(description="Kills at random moments.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands, by commas")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    for module in HEAVY:
        import_module(module)
    root, begun = Path(tempfile.mkdtemp(prefix="safesteer-kills-")), time.monotonic()
    names = chosen.only.split(",") if chosen.only else list(SCRIPTS)
    outcome: dict[str, dict[str, int]] = {}
    wrong: list[str] = []
    try:
        for number, name in enumerate(names):
            share = chosen.kills // len(names) + (number < chosen.kills % len(names))
            ends, differing = try_kills(name, share, random.Random(f"{chosen.seed}-{name}"), root)
            outcome[name] = {"kills": share, "ends": ends}
            wrong += differing
            print(f"{name}: killed {share} times, came to its end {ends} times; {len(differing)} differences", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    seconds, count = time.monotonic() - begun, sum(each["kills"] for each in outcome.values())
    print("\n".join([*wrong, f"{count} kills of seed {chosen.seed}, {len(wrong)} wrong, {seconds:.0f} s"]))
    if chosen.out:
        record = {"seed": chosen.seed, "commands": outcome, "wrong": wrong, "seconds": round(seconds)}
        chosen.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run())
