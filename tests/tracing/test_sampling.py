"""One token chooser: the same request, seed and temperature give the same tokens in `collect` and in `generate`, on every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tracing import requests_for

from safesteer_interp.decoding.answering import generate
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.sampling import request_generator, uniforms
from safesteer_interp.tracing.tracer import Sampling

Tiny = Callable[[str], MLLM]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_trace_and_an_answer_hold_the_same_tokens(tiny: Tiny, family: str) -> None:
    """The states of one answer must never be paired with the text of another. Batches are of other sizes on purpose."""
    mllm = tiny(family)
    requests = requests_for(mllm, 5)
    answers = {}
    for temperature, seed in ((0.0, 0), (1.0, 0), (1.0, 1), (0.3, 7)):
        traced = collect(
            mllm, requests, sites="final_norm", reads="last_prompt,step:1-2", sampling=Sampling(6, temperature, seed), tracer="hooks",
            batch_size=2, store=None, progress=False,
        )  # fmt: skip
        decoded = generate(mllm, requests, sampling=Sampling(9, temperature, seed), batch_size=3)
        assert traced.generated == [answer.ids[:6] for answer in decoded], (temperature, seed)
        answers[temperature, seed] = traced.generated
    assert answers[1.0, 0] != answers[1.0, 1] and answers[0.0, 0] != answers[1.0, 0]


def test_generators_differ_by_seed_and_request() -> None:
    draws = {float(torch.rand(1, generator=request_generator(seed, key))) for seed in (0, 1) for key in ("a", "b")}
    assert len(draws) == 4
    assert torch.equal(torch.rand(3, generator=request_generator(5, "a")), torch.rand(3, generator=request_generator(5, "a")))


def test_fewer_steps_are_the_first_of_more() -> None:
    """An answer of 6 tokens is the beginning of one of 128."""
    short, long = uniforms(["a", "b"], [0, 3], 6), uniforms(["a", "b"], [0, 3], 128)
    assert torch.equal(short, long[:, :6])
