"""Engines that jobs are handed to: SLURM and local processes through submitit, or Ray."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from safesteer_interp.cluster.stages import Job, Stage
from safesteer_interp.environment import has
from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.turns import WORKER


@dataclass(frozen=True)
class Resources:
    """What one job asks for."""

    gpus: int = 0
    cpus: int | None = None
    """Processor cores, and locally threads. None: 1, and locally what each process takes by itself."""
    memory_gb: int | None = None
    """None: 16 on SLURM; elsewhere nothing is reckoned."""
    hours: float = 8.0
    partition: str = ""
    account: str = ""
    at_once: int | None = None
    """Local: at most so many jobs run at a time; None: all of a stage. SLURM and Ray have queues of their own."""


@dataclass
class Submitted:
    """What was handed over: a line per job, and how each ended where that was waited for."""

    executor: str
    folder: Path
    ids: dict[str, str] = field(default_factory=dict)
    """Job name -> the engine's own id."""
    failed: dict[str, str] = field(default_factory=dict)
    """Job name -> the last line it left."""
    waited: bool = False


def submit(stages: Sequence[Stage], executor: str, folder: Path, resources: Resources, *, wait: bool = True) -> Submitted:
    """Hands the stages to an engine; with `wait`, returns when the last job has ended. Logs of all jobs go to `folder`.

    On SLURM the stages depend on each other and nobody has to wait; elsewhere this process starts one stage after the other.
    Raises UsageError for an unknown engine, or one whose package or program is missing.
    """
    if executor not in EXECUTORS:
        raise UsageError(f'--executor "{executor}" is not known.{did_you_mean(executor, EXECUTORS)}')
    return EXECUTORS[executor](stages, folder, resources, wait)


def command_of(job: Job, environment: Mapping[str, str] | None = None) -> list[str]:
    """The job's command, its answers in a file of their own, and with further variables.

    It is handed to `subprocess.check_call`, so that an engine pickles a name of the standard library and nothing of ours.
    """
    return ["env", f"{WORKER}={job.name}", *(f"{name}={value}" for name, value in (environment or {}).items()), *job.command]


def _submitit() -> Any:
    if not has("submitit"):
        raise UsageError('this executor needs the package submitit, which is not installed: pip install "safesteer-interp[cluster]".')
    import submitit

    return submitit


def _slurm(stages: Sequence[Stage], folder: Path, resources: Resources, wait: bool) -> Submitted:
    """One array of jobs per stage, each after the one before."""
    submitit = _submitit()
    try:
        executor = submitit.SlurmExecutor(folder=folder / "%j")
    except RuntimeError as cause:
        raise UsageError(f'--executor slurm: {cause}; run this where "srun" is, or take --executor local.') from None
    done, after = Submitted("slurm", folder), ""
    jobs: dict[str, Any] = {}
    extra: dict[str, Any] = {name: value for name, value in (("partition", resources.partition), ("account", resources.account)) if value}
    for stage in stages:
        executor.update_parameters(
            time=int(resources.hours * 60),
            cpus_per_task=resources.cpus or 1,
            mem=f"{resources.memory_gb or 16}GB",
            job_name=f"safesteer-{stage.name}",
            array_parallelism=len(stage.jobs),
            **({"gres": f"gpu:{resources.gpus}"} if resources.gpus else {}),
            **extra,
            **({"dependency": f"afterany:{after}"} if after else {}),
        )
        with executor.batch():
            handles = [executor.submit(subprocess.check_call, command_of(job)) for job in stage.jobs]
        after = str(handles[0].job_id).partition("_")[0]
        jobs |= {job.name: handle for job, handle in zip(stage.jobs, handles, strict=True)}
    done.ids = {name: str(handle.job_id) for name, handle in jobs.items()}
    return _ended(done, jobs) if wait else done


def _local(stages: Sequence[Stage], folder: Path, resources: Resources, wait: bool) -> Submitted:
    """Processes on this machine, a stage at a time; of a stage no more at once than there are places, for submitit starts all it gets."""
    places = _places(resources, max((len(stage.jobs) for stage in stages), default=1))
    executor = _submitit().LocalExecutor(folder=folder / "%j")
    executor.update_parameters(timeout_min=int(resources.hours * 60))
    done = Submitted("local", folder)
    for stage in stages:
        waiting, running = list(stage.jobs), dict[int, tuple[str, Any]]()
        while waiting or running:
            for place, environment in enumerate(places):
                if waiting and place not in running:
                    job = waiting.pop(0)
                    running[place] = job.name, executor.submit(subprocess.check_call, command_of(job, environment))
                    done.ids[job.name] = str(running[place][1].job_id)
            time.sleep(0.2)
            for place in [place for place, (_, handle) in running.items() if handle.done()]:
                _note(done, *running.pop(place))
    done.waited = True
    return done


def _places(resources: Resources, jobs: int) -> list[dict[str, str]]:
    """What each of the jobs that run at once finds in its environment: its threads, and GPUs that no other has.

    Raises UsageError where this machine has not got what one job asks for.
    """
    n, gpus = min(resources.at_once or jobs, jobs), resources.gpus
    if resources.memory_gb is not None:
        there = psutil.virtual_memory().total / 2**30
        if there < resources.memory_gb:
            raise UsageError(f"--memory-gb {resources.memory_gb} is more than this machine has, {there:.1f} GiB; ask for less.")
        n = min(n, int(there // resources.memory_gb))
    devices = _devices() if gpus else []
    if len(devices) < gpus:
        raise UsageError(f"--gpus {gpus} is more than this machine has, {len(devices)}; ask for fewer.")
    n = min(n, len(devices) // gpus) if gpus else n
    threads = {} if resources.cpus is None else {"OMP_NUM_THREADS": str(resources.cpus)}
    mine = [",".join(devices[i * gpus : (i + 1) * gpus]) for i in range(n)]
    return [threads | ({"CUDA_VISIBLE_DEVICES": names} if gpus else {}) for names in mine]


def _devices() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return list(map(str, range(count))) if named is None else [name.strip() for name in named.split(",")][:count]


def _ended(done: Submitted, jobs: dict[str, Any]) -> Submitted:
    """Waits for submitit's jobs, and notes how those that failed ended."""
    for name, handle in jobs.items():
        while not handle.done():
            time.sleep(0.2)
        _note(done, name, handle)
    done.waited = True
    return done


def _note(done: Submitted, name: str, handle: Any) -> None:
    """Notes how a job that has ended failed, if it did."""
    if handle.exception() is not None or handle.state in ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "INTERRUPTED"):
        lines = [line for line in (handle.stderr() or "").splitlines() if line.strip()]
        done.failed[name] = _telling(lines) or str(handle.state)


def _telling(lines: Sequence[str]) -> str:
    """The last line that a command of ours wrote, before what the engine adds to it."""
    own = [line for line in lines if line.startswith("safesteer")]
    return (own or list(lines) or [""])[-1].strip()[:300]


def _ray(stages: Sequence[Stage], folder: Path, resources: Resources, wait: bool) -> Submitted:
    """Tasks on the Ray cluster that $RAY_ADDRESS names, or on one started here; a task whose worker dies is run again."""
    if not has("ray"):
        raise UsageError('--executor ray needs the package ray, which is not installed: pip install "safesteer-interp[ray]".')
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=True, configure_logging=False)
    asked: dict[str, Any] = {"num_cpus": resources.cpus or 1, "num_gpus": resources.gpus}
    if resources.memory_gb is not None:
        asked["memory"] = resources.memory_gb * 2**30
    task = ray.remote(max_retries=3, **asked)(subprocess.check_call)
    done = Submitted("ray", folder)
    try:
        for stage in stages:
            tasks = {job.name: task.remote(command_of(job), timeout=resources.hours * 3600) for job in stage.jobs}
            done.ids |= {name: reference.hex() for name, reference in tasks.items()}
            for name, reference in tasks.items():
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as cause:
                    done.failed[name] = " ".join(str(cause).split())[-300:]
        done.waited = True
    finally:
        if started_here:
            ray.shutdown()
    return done


EXECUTORS: dict[str, Callable[[Sequence[Stage], Path, Resources, bool], Submitted]] = {"local": _local, "slurm": _slurm, "ray": _ray}
"""Engine -> what hands stages to it."""
