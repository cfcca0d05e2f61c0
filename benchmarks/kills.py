"""Kills `trace`, `run` and `report` at random moments, and looks whether the same command resumes and ends with the same files.

    python benchmarks/kills.py [--kills 50] [--seed 0] [--out benchmarks/kills.json]

Every command first runs to its end once, undisturbed: its files are the yardstick. Then, in a folder of its own, it is started, killed
(SIGKILL) after a random share of the time it took, and started again, until it has been killed so often as its share of `--kills` asks;
the last start runs to its end. Nothing may be lost (every file of the yardstick is there, with its bytes), nothing doubled (no further
file, no half-written one). `compare` joins as soon as the command exists. Exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safesteer_interp.cli import COMMANDS

PLANTED = ["--model", "planted", "--store", "store"]
RUN = ["run", "prefill_separability", *PLANTED, "--out", "figures", "--set", "pairs=8"]
SCRIPTS: dict[str, list[list[str]]] = {
    "trace": [["trace", *PLANTED, "--requests", "planted", "--sites", "all", "--reads", "last_prompt"]],
    "run": [RUN],
    "report": [RUN, ["report", "--figures", "figures"]],
}
"""Command -> what is run; the last line is the one that is killed, those before it are run to their end first."""
if "compare" in COMMANDS:
    SCRIPTS["compare"] = [["compare", *PLANTED, "--requests", "planted", "--limit", "16", "--max-new-tokens", "4"]]
RUN_FACTS = ("run.json", ".lock", ".pid", ".log")
"""Names (or their ends) of files about the run itself: when it ran, who holds a lock. They differ by design."""


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own, in a cache of its own."""
    environment = {**os.environ, "SAFESTEER_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    words = [sys.executable, "-m", "safesteer_interp", *command]
    return subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(command: list[str], folder: Path) -> float:
    """Runs a command to its end; seconds it took. Raises SystemExit, with its last words, when it fails."""
    begun = time.monotonic()
    process = start(command, folder)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors.decode(errors='replace')[-800:]}")
    return time.monotonic() - begun


def files_of(folder: Path) -> dict[str, str]:
    """Hash of every file of a folder but those about the run itself."""
    found = [p for p in sorted(folder.rglob("*")) if p.is_file() and not p.name.endswith(RUN_FACTS) and ".locks" not in p.parts]
    return {str(p.relative_to(folder)): content(p) for p in found}


def content(path: Path) -> str:
    """Hash of a file; provenance without what the machine and the clock say."""
    if path.name == "provenance.json":
        record = json.loads(path.read_text(encoding="utf-8"))
        record.pop("run", None)
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def try_kills(name: str, kills: int, rng: random.Random, root: Path) -> tuple[int, list[str]]:
    """(kills that met a running process, what differs from the undisturbed run)."""
    whole, killed = root / f"{name}-whole", root / f"{name}-killed"
    *before, command = SCRIPTS[name]
    for folder in (whole, killed):
        folder.mkdir()
        for step in before:
            finish(step, folder)
    took = finish(command, whole)
    met = 0
    for _ in range(kills):
        process = start(command, killed)
        try:
            process.wait(rng.uniform(0.2, 1.0) * took)
        except subprocess.TimeoutExpired:
            process.kill()
            met += 1
        process.communicate()
    finish(command, killed)
    expected, found = files_of(whole), files_of(killed)
    wrong = [f"lost: {path}" for path in expected if path not in found]
    wrong += [f"further: {path}" for path in found if path not in expected]
    wrong += [f"differs: {path}" for path in expected if path in found and found[path] != expected[path]]
    return met, [f"{name}: {what}" for what in wrong]


def main() -> int:
    """Prints a line per command and a summary."""
    parser = argparse.ArgumentParser(description="Kills at random moments.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands, by commas")
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    root, begun = Path(tempfile.mkdtemp(prefix="safesteer-kills-")), time.monotonic()
    names = chosen.only.split(",") if chosen.only else list(SCRIPTS)
    outcome: dict[str, int] = {}
    wrong: list[str] = []
    try:
        for number, name in enumerate(names):
            share = chosen.kills // len(names) + (number < chosen.kills % len(names))
            met, differing = try_kills(name, share, random.Random(f"{chosen.seed}-{name}"), root)
            outcome[name] = met
            wrong += differing
            print(f"{name}: killed {met} times while running, of {share}; {len(differing)} differences", flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("\n".join([*wrong, f"{sum(outcome.values())} kills of seed {chosen.seed}, {len(wrong)} wrong, {time.monotonic() - begun:.0f} s"]))
    if chosen.out:
        record = {"seed": chosen.seed, "kills": outcome, "wrong": wrong, "seconds": round(time.monotonic() - begun)}
        chosen.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
