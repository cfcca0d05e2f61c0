"""`generate`: answers to any number of requests, in batches of like length, under one policy and any edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from safesteer_interp.decoding.editing import editing
from safesteer_interp.decoding.loop import Decoded, decode
from safesteer_interp.decoding.policies import PLAIN, Policy, check_budget
from safesteer_interp.decoding.prefix import prefill
from safesteer_interp.decoding.prompt_cache import distinct, read_prompts, spread
from safesteer_interp.decoding.sharing import Ask, Mixed, batches_of, ways_of
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.requests import Request
from safesteer_interp.tracing.sampling import uniforms
from safesteer_interp.tracing.tracer import Edit, Sampling

DEFAULT_SAMPLING = Sampling(max_new_tokens=128, temperature=1.0)
"""The paper's: temperature 1.0, at most 128 new tokens (arXiv 2605.11716 section 5.1)."""
Progress = Callable[[int, int], None]
"""Told (answers done, answers in all) after every batch."""


def generate(
    mllm: MLLM,
    requests: Sequence[Request],
    policy: Policy = PLAIN,
    sampling: Sampling = DEFAULT_SAMPLING,
    *,
    edits: Sequence[Edit] = (),
    batch_size: int = 32,
    explain: bool = False,
    stop: bool = True,
    progress: Progress | None = None,
) -> list[Decoded]:
    """One answer per request, in order: `.text`, and its token `.ids`.

    Requests of like length share a batch; each has its own random numbers, so that the batch does not change its sample (up to the
    rounding that padding causes, 1e-5 relative in float32). `stop=False` ignores end-of-sequence tokens. Edits act on prompt and
    answer tokens as `At` says; rows that have finished leave the batch, so an edit must not carry one vector per row.
    Raises UsageError when more steps are guided than tokens generated, or when the model cannot be guided.
    """
    own = tuple(edits)
    asks = [Ask(request, sampling.seed, policy, own) for request in requests]
    found: dict[int, Decoded] = {}
    for places, answers in answer_asks(mllm, asks, sampling, batch_size=batch_size, explain=explain, stop=stop):
        for place, decoded in zip(places, answers, strict=True):
            decoded.text = text_of(mllm, decoded)
            found[place] = decoded
        if progress is not None:
            progress(len(found), len(requests))
    return [found[i] for i in range(len(requests))]


def answer_asks(
    mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, *, batch_size: int = 32, explain: bool = False, stop: bool = True
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Places and answers of one batch after the other, until every ask is answered; the sampling's own seed is not used.

    Asks of one kind share batches, whatever their policies and edits; a request that is asked several times is read once per batch.
    Raises as `generate` does.
    """
    if sampling.max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {sampling.max_new_tokens}; an answer needs at least 1 token.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
    for policy in {id(ask.policy): ask.policy for ask in asks}.values():
        if policy.steps:
            check_budget(policy.k, policy.steps, sampling.max_new_tokens, mllm)
    for places in batches_of(asks, batch_size):
        yield places, decode_batch(mllm, [asks[i] for i in places], sampling, explain=explain, stop=stop)


def decode_batch(mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, *, explain: bool = False, stop: bool = True) -> list[Decoded]:
    """Answers to the asks of one batch, in order; all must be of one kind."""
    ways, member = ways_of(asks)
    early = asks[0].early
    asked, rows = distinct([ask.request for ask in asks], member if early else None)
    batch = mllm.encode(asked).to(mllm.device)
    ends = stop_ids(mllm) if stop else frozenset[int]()
    uniform = uniforms([ask.request.key() for ask in asks], [ask.seed for ask in asks], sampling.max_new_tokens)
    with torch.no_grad():
        # Edits of the final norm leave the cache alone, so the prompt pass is everybody's and only its last state is edited.
        read = None if early else read_prompts(mllm, batch)
        with editing(mllm, batch, ways, member, rows) as running:
            prefix, states = read or prefill(mllm.model, batch.inputs)
            states = spread(prefix, states, rows)
            if running:
                running.answering()
                states = running.last_prompt(states) if read else states
            policy = ways[0].policy if len(ways) == 1 else Mixed([way.policy for way in ways], member)
            watch = running.watch if running else None
            temperature = sampling.temperature
            return decode(mllm.model, prefix, states, policy, uniform, ends, temperature=temperature, explain=explain, watch=watch)


def text_of(mllm: MLLM, decoded: Decoded) -> str:
    """The answer as text, without special tokens."""
    tokenizer: Any = mllm.tokenizer
    return str(tokenizer.decode(decoded.ids, skip_special_tokens=True)).strip()
