"""What answers still take: told within 30 % after a minute of a simulated evaluation, on a clock that the test moves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.decoding import ByRank, asked

from safesteer_interp.decoding.answering import answer_asks
from safesteer_interp.decoding.choice import Choice
from safesteer_interp.decoding.pace import Pace
from safesteer_interp.decoding.policies import PLAIN, Guided
from safesteer_interp.decoding.sharing import Ask
from safesteer_interp.tracing.tracer import Sampling

PROMPT, TOKEN, FIXED = 0.3, 0.004, 0.02
"""Seconds a prompt, a token of one row, and a step beside its rows take in the simulation."""
REFUSAL, LIMIT, SIZE = 12, 128, 96


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lengths(rng: random.Random, refusing: float, mean: float) -> int:
    """Tokens of an answer: a refusal of about a dozen, or anything up to the limit."""
    return rng.randint(REFUSAL - 3, REFUSAL + 3) if rng.random() < refusing else min(LIMIT, 1 + int(rng.expovariate(1 / mean)))


def simulated(pace: Pace, clock: Clock, seed: int, methods: dict[str, tuple[tuple[int, int], float, float]], requests: int) -> list[float]:
    """Answers every request three times by each method; returns (seconds gone, seconds said to be left) at every step."""
    rng, waiting = random.Random(seed), []
    for method, (guided, refusing, mean) in methods.items():
        waiting += [(method, guided, f"prompt {i}", lengths(rng, refusing, mean)) for i in range(requests) for _ in range(3)]
    pace.expect([p for _, _, p, _ in waiting], [m for m, *_ in waiting], [g for _, g, *_ in waiting])
    running: list[list[Any]] = []
    seen, said = set[str](), list[tuple[float, float | None]]()
    while waiting or running:
        while waiting and len(running) < SIZE:
            guided = waiting[0][1]
            batch = [w for w in waiting[:SIZE] if w[1] == guided]
            waiting = waiting[len(batch) :]
            with pace.reads([p for _, _, p, _ in batch], guided):
                clock.now += PROMPT * len({p for _, _, p, _ in batch} - seen)
                seen |= {p for _, _, p, _ in batch}
            with pace.opens(guided, len(batch)):
                clock.now += guided[0] * guided[1] * len(batch) * TOKEN
            running += [[method, length] for method, _, _, length in batch]
        with pace.steps([method for method, _ in running[:SIZE]]):
            clock.now += FIXED + TOKEN * len(running[:SIZE])
        for row in running[:SIZE]:
            row[1] -= 1
        pace.end(method for method, length in running if length <= 0)
        running = [row for row in running if row[1] > 0]
        said.append((clock.now, pace.left))
    return [(now, left) for now, left in said if left is not None]  # type: ignore[misc]


@pytest.mark.parametrize("seed", range(5))
def test_the_rest_is_told_within_30_per_cent_once_a_minute_has_gone(seed: int) -> None:
    clock = Clock()
    methods = {"none": ((0, 0), 0.5, 35.0), "vector": ((0, 0), 0.8, 30.0), "probe": ((5, 5), 0.2, 45.0), "random": ((5, 5), 0.4, 40.0)}
    told: list[Any] = simulated(Pace(LIMIT, clock), clock, seed, methods, requests=144)
    end = told[-1][0]
    assert end > 300
    for now, left in told:
        if now >= 60 and end - now > 30:
            assert left == pytest.approx(end - now, rel=0.3), f"{now:.0f} s of {end:.0f} s"


def test_nothing_is_said_before_an_answer_has_ended_and_nothing_is_left_at_the_end() -> None:
    clock = Clock()
    pace = Pace(LIMIT, clock)
    assert pace.left is None
    told: list[Any] = simulated(pace, clock, 0, {"none": ((0, 0), 0.5, 30.0)}, requests=10)
    assert told[-1][1] == 0


def test_answering_tells_all_of_its_work(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    requests, pace = asked(mllm), Pace(6)
    guided = Guided(ByRank(1), k=3, steps=2, choice=Choice(beta=math.inf))
    asks = [Ask(request, seed, policy) for policy in (PLAIN, guided) for seed in (0, 1) for request in requests]
    for _ in answer_asks(mllm, asks, Sampling(6, 1.0), batch_size=4, stop=False, pace=pace):
        assert pace.left is not None and pace.left >= 0
    assert pace.left == 0 and pace.ended.total() == len(asks) and not pace.unread and not +pace.open and not +pace.waiting
    assert pace.written.total() == len(asks) // 2 * 6 + len(asks) // 2 * 4, "guided tokens are part of the opening"
