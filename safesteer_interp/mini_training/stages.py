"""The stages of a training: what each waits for, what share of a time budget it gets, and how several processes run them.

A model this small leaves the second core half idle (two threads train 1.3 times as fast as one), so that processes of one thread each, on
stages that do not wait for one another, make more of the same hours.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

import torch

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.lifeline import lifeline, tie
from safesteer_interp.mini_training.instruction import Recipe

ANSWERS, TOWER, ALIGNMENT = "answers", "tower", "alignment"
WEIGHTS: Mapping[str, float] = {
    ANSWERS: 2.5, TOWER: 7.0, ALIGNMENT: 4.0, **dict.fromkeys(map(str, Recipe), 1.8), str(Recipe.RELEASED): 3.4
}  # fmt: skip
"""How a time budget is divided among the stages on a CPU."""
GPU_WEIGHTS: Mapping[str, float] = {
    ANSWERS: 1.5, TOWER: 5.0, ALIGNMENT: 3.0, **dict.fromkeys(map(str, Recipe), 3.8), str(Recipe.RELEASED): 4.6
}  # fmt: skip
"""The same on a GPU, which writes answers and trains a language model so fast that drawing the images is the longest part."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    ANSWERS: (),
    TOWER: (),
    ALIGNMENT: (ANSWERS,),
    **dict.fromkeys(map(str, Recipe), (TOWER, ALIGNMENT)),
    str(Recipe.UNALIGNED): (TOWER, ANSWERS),
}
"""Stage -> those that must be finished before it begins."""
LEAST = 1 / 3
"""Of the seconds that stages were to have: with less they are not worth training."""


def seconds_of(
    todo: Sequence[str], left: float, running: Mapping[str, float] = {}, processes: int = 1, weights: Mapping[str, float] = WEIGHTS
) -> float:
    """Seconds that one unit of weight may take, so that the stages to do end in time: with `left` seconds, those `running` (stage ->
    seconds it still has) ahead of them, and so many processes."""
    low, high = 0.0, max(left, 1.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if makespan(todo, middle, running, processes, weights) <= left else (low, middle)
    return low


def check_rest(
    todo: Sequence[str], budget: float, took: float, left: float, processes: int = 1, weights: Mapping[str, float] = WEIGHTS
) -> None:
    """Raises UsageError when the model's own answers, a fixed cost that took `took` seconds of a budget for the stages `todo`, leave
    less than LEAST of what those after them were to have."""
    beside = {ANSWERS, TOWER} if processes > 1 else {ANSWERS}  # the tower is not waiting for them and has its seconds
    rest = [stage for stage in todo if stage not in beside]
    planned = makespan(rest, seconds_of(todo, budget, {}, processes, weights), {}, processes, weights)
    if rest and left < LEAST * planned:
        raise UsageError(
            f"--budget {budget:.0f} is too short: the model's own answers took {took:.0f} s, which no budget shortens, and left "
            f"{max(0.0, left):.0f} s of the {planned:.0f} s for {', '.join(rest)}; what is done is kept, so repeat the command with "
            f"--budget {planned:.0f} or more."
        )


def makespan(
    todo: Sequence[str], unit: float, running: Mapping[str, float], processes: int, weights: Mapping[str, float] = WEIGHTS
) -> float:
    """Seconds until the last stage ends where each takes its weight times `unit` and begins as soon as it may and a process is free."""
    ends = dict(running)
    waiting, now = list(todo), 0.0
    while waiting:
        active = [end for end in ends.values() if end > now]
        ready = [s for s in waiting if all(ends.get(need, 0.0) <= now for need in NEEDS[s] if need in ends or need in todo)]
        ready = [s for s in ready if not any(need in waiting for need in NEEDS[s])]
        if ready and len(active) < processes:
            ends[ready[0]] = now + weights[ready[0]] * unit
            waiting.remove(ready[0])
        else:
            now = min(active)
    return max(ends.values(), default=0.0)


def run_apart(
    stages: Sequence[str], work: Callable[[str, float | None], None], processes: int, left: Callable[[], float | None],
    done: Callable[[str], None], weights: Mapping[str, float] = WEIGHTS,
) -> None:  # fmt: skip
    """Runs stages in processes of their own, each as soon as those before it have ended.

    Args:
        stages: in order of preference.
        work: called in the process with the stage and the seconds it may take; a function that can be sent there.
        left: seconds until the end of the budget, or None.
        done: told when a stage has ended.
        weights: the stages' shares of what is left.

    An error of a stage is raised here once those that run beside it have ended; Ctrl-C and SIGTERM end them at once, and the same command
    carries on from their last checkpoints.
    """
    todo, running, until = list(stages), dict[Future[None], str](), dict[str, float]()
    threads = max(1, torch.get_num_threads() // processes)
    spawning = multiprocessing.get_context("spawn")
    theirs, ours = lifeline(spawning)
    with ours, ProcessPoolExecutor(processes, mp_context=spawning, initializer=_begin, initargs=(threads, theirs)) as pool:
        try:
            while todo or running:
                ready = [s for s in todo if not any(need in todo or need in running.values() for need in NEEDS[s])]
                if ready and len(running) < processes:
                    stage, rest = ready[0], left()
                    seconds = None
                    if rest is not None:
                        still = {s: max(0.0, rest - end) for s, end in until.items() if s in running.values()}
                        seconds = max(1.0, seconds_of(todo, rest, still, processes, weights) * weights[stage])
                        until[stage] = rest - seconds
                    todo.remove(stage)
                    running[pool.submit(work, stage, seconds)] = stage
                    continue
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    done(running.pop(future))
        except (KeyboardInterrupt, SystemExit):
            ours.close()
            raise
        except BrokenProcessPool:
            raise InputError(
                f"a process ended without a word during {' or '.join(running.values()) or 'its first stage'} (killed, or out of memory); "
                "what is finished is kept: give the same command again, with fewer --jobs where memory was short."
            ) from None


def _begin(threads: int, theirs: Connection) -> None:
    """Runs once in every process."""
    tie(theirs)
    torch.set_num_threads(threads)
