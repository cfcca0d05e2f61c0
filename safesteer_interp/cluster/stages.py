"""A command as stages of jobs: first its traces, cut into equal parts, then what is computed from them.

Nothing is merged at the end. Shards of traces and answers lie in the shared store under keys of their content; whoever comes later takes
what is there and makes what is missing, so that a job that died costs its own work and nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

PROGRAM = (sys.executable, "-m", "safesteer_interp")


@dataclass(frozen=True)
class Job:
    """One process: a name that tells it apart from all others of the run, and its command line."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Jobs that may run at once; a stage begins when the one before it has ended, however it ended."""

    name: str
    jobs: tuple[Job, ...]


def stages_of(command: str, flags: Sequence[str], units: Sequence[str], workers: int) -> list[Stage]:
    """The stages of `safesteer <command> <flags>`.

    Args:
        command: "run" or "trace".
        flags: its arguments, without the units.
        units: what its second stage is split by: the analyses of `run`, each a job. `trace` has none, and ends in one job that makes
            the trace whole.
        workers: parts that the traces are cut into.
    """
    whole = (*PROGRAM, command)
    parts = tuple(
        Job(f"{command}-part-{i}-of-{workers}", (*whole, *(units if command == "run" else ()), *flags, "--part", f"{i}/{workers}"))
        for i in range(1, workers + 1)
    )
    if command == "run":
        return [Stage("traces", parts), Stage("analyses", tuple(Job(f"run-{unit}", (*whole, unit, *flags)) for unit in units))]
    return [Stage("traces", parts), Stage("whole", (Job(f"{command}-whole", (*whole, *flags)),))]
