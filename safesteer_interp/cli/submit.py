"""`safesteer submit run|trace ...`: the same command, cut into jobs that share one store, on a SLURM or Ray cluster or here."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from safesteer_interp.cli.command import emit_json, parse, say
from safesteer_interp.errors import UsageError

COMMANDS = ("run", "trace")


@dataclass(frozen=True)
class Submit:
    """Cut `safesteer run` or `safesteer trace` into jobs: safesteer submit run --all --model M --executor slurm --workers 8.

    All jobs must see the same --store (or user cache).
    A job that dies loses its own work only: give the same command again.
    """

    executor: Literal["local", "slurm", "ray"] = "local"
    """local: processes here; slurm: arrays of jobs (both by submitit); ray: the cluster that RAY_ADDRESS names, or one started here."""
    workers: int = 2
    """Parts that the traces are cut into; the analyses of `run` are a job each. local: at most so many jobs run at a time."""
    gpus: int = 0
    """GPUs of each job. local: jobs that run at a time have different ones, and wait where there are too few."""
    cpus: int | None = None
    """Processor cores of each job; default: 1. local: its threads (OMP_NUM_THREADS); default: as many as the job takes by itself."""
    memory_gb: int | None = None
    """Memory of each job; default: 16 (slurm). local, ray: no more jobs at a time than have room; by default it is not reckoned."""
    hours: float = 8.0
    """Longest time of each job."""
    partition: str = ""
    """SLURM partition."""
    account: str = ""
    """SLURM account."""
    logs: Path = Path("jobs")
    """Folder for the logs of the jobs; every machine must see it."""
    no_wait: bool = False
    """Return as soon as everything is handed over (SLURM only)."""
    dry_run: bool = False
    """Print the jobs with their command lines and the most they may cost, and stop."""
    json: bool = False
    """Print the outcome as JSON on stdout."""

    def run(self, command: str, arguments: Sequence[str]) -> int:
        """Submits, or prints the plan; 1 when a job failed."""
        from safesteer_interp.cluster import Resources, stages_of, submit

        for name, least in (("workers", 1), ("gpus", 0), ("cpus", 1), ("memory_gb", 1)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise UsageError(f"--{name.replace('_', '-')} {given} is not possible; give {least} or more.")
        units, flags = split(command, arguments)
        stages = stages_of(command, flags, units, self.workers)
        resources = Resources(self.gpus, self.cpus, self.memory_gb, self.hours, self.partition, self.account, self.workers)
        if self.dry_run:
            n = sum(len(stage.jobs) for stage in stages)
            cores = self.cpus or ((os.cpu_count() or 1) if self.executor == "local" else 1)
            cost = {"jobs": n, "gpu_hours_at_most": n * self.gpus * self.hours, "core_hours_at_most": n * cores * self.hours}
            if self.json:
                emit_json({"stages": [asdict(stage) for stage in stages], **cost})
            else:
                for stage in stages:
                    print(f"{stage.name}: {len(stage.jobs)} jobs")
                    for job in stage.jobs:
                        print(f"  {job.name}: {shlex.join(('safesteer', *job.command[3:]))}")
                print(
                    f"{n} jobs on {self.executor}; at most {cost['gpu_hours_at_most']:g} GPU hours and {cost['core_hours_at_most']:g} "
                    "core hours"
                )
            return 0
        done = submit(stages, self.executor, self.logs.resolve(), resources, wait=not self.no_wait)
        if self.json:
            emit_json(done)
        else:
            print(f"{len(done.ids)} jobs on {done.executor}{'' if done.waited else ', not waited for'}; logs in {done.folder}")
        for name, reason in done.failed.items():
            say(f"{name} failed: {reason}")
        return 1 if done.failed else 0


def split(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the command is split by (the analyses of `run`), and its other arguments.

    Raises UsageError for an unknown analysis; a flag that the command does not know ends in its own message.
    """
    if command == "trace":
        from safesteer_interp.cli.trace import Trace

        parse(Trace, "trace", arguments)
        return [], list(arguments)
    from safesteer_interp.cli.run import Run
    from safesteer_interp.runner import discover

    asked = parse(Run, "run", arguments)
    if bool(asked.ids) == asked.all:
        raise UsageError("name the analyses to run, or give --all for every one (`safesteer list analyses` shows them).")
    known = discover(asked.analyses)
    for cause in known.failing(asked.ids).values():
        if asked.ids:
            raise cause
        say(str(cause))
    chosen = known.choose(list(asked.ids))
    named = {n for n, word in enumerate(arguments) if word in asked.ids and _is_id(arguments, n)}
    return [analysis.id for analysis in chosen], [word for n, word in enumerate(arguments) if word != "--all" and n not in named]


def _is_id(arguments: Sequence[str], place: int) -> bool:
    """Whether a word is one of the analyses of `run` and no flag's value: another in its place is then among them instead."""
    from safesteer_interp.cli.run import Run

    other = "no_analysis_at_all"
    with redirect_stderr(io.StringIO()), suppress(SystemExit):  # a value that its flag alone may have
        return other in parse(Run, "run", [*arguments[:place], other, *arguments[place + 1 :]]).ids
    return False


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command. Its own flags may stand before or after the command to be cut."""
    import tyro

    submit, rest = tyro.cli(
        Submit, prog="safesteer submit", args=list(arguments), config=(tyro.conf.FlagCreatePairsOff,), return_unknown_args=True
    )
    if not rest or rest[0] not in COMMANDS:
        known = " or ".join(COMMANDS)
        raise UsageError(f"say what to submit, {known}: safesteer submit run --all --model M --executor {submit.executor}.")
    return submit.run(rest[0], rest[1:])
