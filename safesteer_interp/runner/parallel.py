"""Several processes for one run: each makes a share of the traces, then all take analyses from one queue until it is empty.

Every process holds the model and computes with its part of the processor's threads: a model that is small for the machine leaves cores
idle in one process. Nothing is merged: traces, answers and results are files under keys of their content. A process that dies costs the
analyses that were not finished; the same command goes on from there.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safesteer_interp.errors import BadRequestError, UsageError
from safesteer_interp.lifeline import lifeline, tie
from safesteer_interp.runner.attempt import Renderer, attempt, fail
from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.provenance import seconds_taken
from safesteer_interp.runner.results import MEASURE_ERRORS, AnalysisResult
from safesteer_interp.runner.schedule import Job, make_jobs
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.runner.typical import AFTER, SECONDS
from safesteer_interp.tracing.parts import Share

DIED = (
    "a process of this run ended without a word before it was finished (killed, or out of memory); give the same command again, with "
    "fewer --jobs where memory was short."
)

PIECES = 4
"""Shares of the traces that a process makes one after the other, so that there is something to see and none waits long for another."""


@dataclass(frozen=True)
class Errand:
    """What every process of a run must know; it travels to them, so it holds no model."""

    settings: RunSettings
    profile: str
    out: Path
    overrides: Mapping[str, Any]
    folder: Path | None
    subfolder: str
    git: Mapping[str, Any]
    render: Renderer | None
    ids: tuple[str, ...]
    threads: int


@dataclass
class Ended:
    """One analysis that a process has ended."""

    result: AnalysisResult
    left_out: list[BadRequestError] = field(default_factory=list)


class Processes:
    """The processes of one run, as a context manager; they end with it, at once where an exception leaves it or this process dies."""

    def __init__(self, n: int, errand: Errand) -> None:
        self.n = n
        spawning = get_context("spawn")  # a fork would copy the threads' locks, and cannot use a GPU that is in use
        theirs, self.lifeline = lifeline(spawning)
        self.pool = ProcessPoolExecutor(n, mp_context=spawning, initializer=_begin, initargs=(errand, spawning.Value("i", 0), theirs))
        for _ in range(n):
            self.pool.submit(_get_ready)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.pool.shutdown()
        self.lifeline.close()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def trace(self, ids: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> int:
        """Leaves the missing traces of some analyses in parts, for the caller to take over; returns the number of shards.

        `advance(1)` is called `PIECES` times a process. What a process fails at is left to the caller, who meets it again and says so.
        """
        n, made = self.n * PIECES, 0
        with suppress(BrokenProcessPool):
            for share in as_completed([self.pool.submit(_trace_share, tuple(ids), Share(i, n)) for i in range(n)]):
                with suppress(*MEASURE_ERRORS):
                    made += share.result()
                advance(1)
        return made

    def attempts(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Ended]]:
        """Jobs as they end, the longest begun first; what uses the answers of another (`typical.AFTER`) waits until that has ended."""
        waiting = sorted(jobs, key=_longest_first)
        running: dict[Future[Ended], Job] = {}
        while waiting or running:
            open_jobs = {job.analysis.id for job in (*waiting, *running.values())}
            for job in [job for job in waiting if not open_jobs & set(AFTER.get(job.analysis.id, ()))][: self.n - len(running)]:
                waiting.remove(job)
                try:
                    running[self.pool.submit(_attempt, job.analysis.id)] = job
                except BrokenProcessPool:
                    yield job, Ended(fail(job, UsageError(DIED)))
            for future in wait_for(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                try:
                    yield job, future.result()
                except BrokenProcessPool:
                    yield job, Ended(fail(job, UsageError(DIED)))


def threads_of(jobs: int) -> int:
    """Threads of each of `jobs` processes. Raises UsageError for less than one."""
    if jobs < 1:
        raise UsageError(f"--jobs {jobs} does nothing; give 1 or more.")
    import torch

    return max(1, torch.get_num_threads() // jobs)


def _longest_first(job: Job) -> float:
    """By what an analysis took here the last time, else by what it usually takes; one of which nothing is known comes first."""
    known = seconds_taken(job.analysis.id, job.place)
    return -(known if known is not None else SECONDS.get(job.analysis.id, math.inf))


class _Process:
    """What one process keeps between its tasks."""

    def __init__(self, errand: Errand) -> None:
        self.errand = errand
        self.session = Session(replace(errand.settings, progress=False))
        self.open = ExitStack()
        self.open.enter_context(self.session.sharing_prompts())

    @cached_property
    def jobs(self) -> dict[str, Job]:
        e = self.errand
        jobs = make_jobs(self.session, discover(e.folder).choose(list(e.ids)), e.profile, e.out, e.overrides, e.subfolder)
        return {job.analysis.id: job for job in jobs}


_process: _Process


def _begin(errand: Errand, numbers: Any, theirs: Connection) -> None:
    """Runs once in every process: its end, its threads, and a name of its own for the files that answers are added to."""
    global _process
    tie(theirs)
    import torch
    from threadpoolctl import threadpool_limits

    from safesteer_interp.turns import WORKER

    with numbers.get_lock():
        numbers.value += 1
        os.environ[WORKER] = "-".join(filter(None, (os.environ.get(WORKER, ""), f"process-{numbers.value}")))
    torch.set_num_threads(errand.threads)
    threadpool_limits(errand.threads)
    _process = _Process(errand)


def _get_ready() -> None:
    """Loads the model and plans, so that the processes do it together and not one after the other."""
    _ = _process.jobs


def _trace_share(ids: tuple[str, ...], share: Share) -> int:
    session = _process.session
    specs = [spec for name in ids for spec in _process.jobs[name].specs]
    return sum(session.library.make_share(group, share) for group in session.missing(specs))


def _attempt(name: str) -> Ended:
    begun, session = time.monotonic(), _process.session
    e, known = _process.errand, len(session.bad)
    result = attempt(_process.jobs[name], e.profile, e.git, e.render)
    return Ended(result.taking(time.monotonic() - begun), session.bad[known:])
