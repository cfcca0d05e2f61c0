"""What a defense costs: speeds as ratios within one run, and costs per token of what was written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.decoding import asked

from safesteer_interp.defenses.defense import DEFAULTS, Response, Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.errors import InputError
from safesteer_interp.evaluation.cost import costs
from safesteer_interp.evaluation.throughput import throughput
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

SMALL = Settings(Sampling(max_new_tokens=6), batch_size=2)


def test_throughput_is_a_ratio_within_the_run(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llama")
    table = throughput(mllm, {"none": Undefended(), "other": Undefended()}, asked(mllm), settings=SMALL, repeats=3)
    assert list(table["defense"]) == ["none", "other"] and (table["n"] == 3).all()
    assert table["ratio"][0] == 1 and (table["low"] <= table["tokens_per_second"]).all()
    with pytest.raises(InputError, match="is not among the defenses"):
        throughput(mllm, {"other": Undefended()}, asked(mllm), settings=SMALL)


class Timed(Undefended):
    """Takes so many seconds of the clock it is given, one number a call."""

    name = "timed"

    def __init__(self, clock: list[float], *seconds: float) -> None:
        self.clock, self.seconds = clock, iter(seconds)

    def respond(self, mllm: MLLM, requests: Sequence[Request], settings: Settings = DEFAULTS) -> list[Response]:
        self.clock[0] += next(self.seconds)
        return []


def test_the_ratio_is_the_speed_of_a_method_over_that_of_the_baseline(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mllm, clock = tiny("llama"), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    methods = {"slow": Timed(clock, 99, 4, 8, 16), "none": Timed(clock, 99, 2, 2, 2)}  # the first round is not counted
    table = throughput(mllm, methods, asked(mllm)[:2], settings=SMALL, repeats=3).set_index("defense")
    tokens = 2 * SMALL.sampling.max_new_tokens
    assert table.loc["slow", ["ratio", "ratio_low", "ratio_high"]].tolist() == [2 / 8, 2 / 16, 2 / 4], "slower is below 1"
    assert table.loc["none", ["ratio", "ratio_low", "ratio_high"]].tolist() == [1, 1, 1]
    assert table.loc["slow", ["tokens_per_second", "low", "high"]].tolist() == [tokens / 8, tokens / 16, tokens / 4]
    assert table["n"].tolist() == [3, 3]


class Shortened(Undefended):
    """Puts one word in the place of what the model wrote."""

    name = "shortened"

    def review(self, mllm: MLLM, responses: list[Response], settings: Settings) -> list[Response]:
        return [replace(r, text="No.", ids=[1]) for r in responses]


def test_an_answer_that_is_replaced_counts_as_the_one_that_was_written(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mllm, clock = tiny("llama"), iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))  # every answer takes one second
    monkeypatch.setattr(Undefended, "respond", respond_in_a_second)
    methods = {"none": Undefended(), "shortened": Shortened()}
    table = throughput(mllm, methods, asked(mllm)[:2], settings=SMALL, repeats=2).set_index("defense")
    assert table.loc["shortened", "tokens_per_second"] == 2 * SMALL.sampling.max_new_tokens and table.loc["shortened", "ratio"] == 1


def respond_in_a_second(self: Undefended, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[Response]:
    return self.review(mllm, [Response(r, "Yes.", [1] * settings.sampling.max_new_tokens) for r in requests], settings)


def test_costs_per_token_are_those_of_what_was_written(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llama")
    settings = replace(SMALL, stop=False)
    table = costs(mllm, {"none": Undefended(), "shortened": Shortened()}, asked(mllm)[:2], settings=settings).set_index("method")
    assert (table["tokens_written"] == SMALL.sampling.max_new_tokens).all() and table.loc["shortened", "forwards_ratio"] == 1
