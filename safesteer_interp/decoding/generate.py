"""`generate`: answers to any number of requests, in batches of like length, under one policy and any edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safesteer_interp.decoding.candidates import prefill
from safesteer_interp.decoding.loop import Decoded, decode
from safesteer_interp.decoding.policies import PLAIN, Policy, check_budget
from safesteer_interp.decoding.prompts import distinct, read_prompts
from safesteer_interp.decoding.sampling import uniforms
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role, Site, SiteKind
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.tracing.steps import Pass, stop_ids
from safesteer_interp.tracing.tracer import Edit, Sampling
from safesteer_interp.types import Hidden, States

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
    seeds: Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    batch_size: int = 32,
    explain: bool = False,
    stop: bool = True,
    progress: Progress | None = None,
) -> list[Decoded]:
    """One answer per request, in order.

    Requests of like length share a batch; each has its own random numbers, so that the batch does not change its sample (up to the
    rounding that padding causes, 1e-5 relative in float32). `seeds` gives one seed per request, in the sampling's place: a request that
    is listed with several seeds is read once per batch and answered under each. `stop=False` ignores end-of-sequence tokens. Edits act
    on prompt and answer tokens as `At` says; rows that have finished leave the batch, so an edit must not carry one vector per row.
    Raises UsageError when more steps are guided than tokens generated, or when the model cannot be guided.
    """
    if seeds is not None and len(seeds) != len(requests):
        raise UsageError(f"{len(seeds)} seeds were given for {len(requests)} requests; give one per request.")
    if sampling.max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {sampling.max_new_tokens}; an answer needs at least 1 token.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
    if policy.steps:
        check_budget(policy.k, policy.steps, sampling.max_new_tokens)
    found: dict[int, Decoded] = {}
    for places in by_length(requests, batch_size):
        drawn = [sampling.seed if seeds is None else seeds[i] for i in places]
        asked = [requests[i] for i in places]
        answers = decode_batch(mllm, asked, policy, sampling, seeds=drawn, edits=edits, explain=explain, stop=stop)
        found.update(zip(places, answers, strict=True))
        if progress is not None:
            progress(len(found), len(requests))
    return [found[i] for i in range(len(requests))]


def by_length(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Places of the requests of each batch: those of one form and like length together, so that little is padding.

    Batches are of nearly equal size, and a request that is listed several times stands together.
    """

    def similar(i: int) -> tuple[bool, str, int, str]:
        request = requests[i]
        pictured = request.image is not None
        return pictured, str(request.attack) if pictured else "", len(request.text), request.id

    order = sorted(range(len(requests)), key=similar)
    batches = -(-len(order) // batch_size)
    for k in range(batches):
        yield order[k * len(order) // batches : (k + 1) * len(order) // batches]


def decode_batch(
    mllm: MLLM,
    requests: Sequence[Request],
    policy: Policy,
    sampling: Sampling,
    *,
    seeds: Sequence[int] | None = None,
    edits: Sequence[Edit] = (),
    explain: bool = False,
    stop: bool = True,
) -> list[Decoded]:
    """Answers to one batch of requests, in order, as `generate` has it; each distinct request is read once."""
    asked, rows = distinct(requests)
    batch = mllm.encode(asked).to(mllm.device)
    ends = stop_ids(mllm) if stop else frozenset[int]()
    drawn = [sampling.seed] * len(requests) if seeds is None else seeds
    uniform = uniforms([request.key() for request in requests], drawn, sampling.max_new_tokens)
    early = any(site.kind is not SiteKind.FINAL_NORM for edit in edits for site in edit.sites)
    with torch.no_grad():
        # Edits of the final norm leave the cache alone, so the prompt pass is everybody's and only its last state is edited.
        read = None if early else read_prompts(mllm, batch)
        with editing(mllm, batch, edits) as running:
            prefix, states = read or prefill(mllm.model, batch.inputs)
            if read and running:
                states = running.last_prompt(states)
            if len(asked) < len(requests):
                prefix.keep_rows(rows)
                states = states[rows.to(states.device)]
            watch = running.watch if running else None
            return decode(mllm.model, prefix, states, policy, uniform, ends, temperature=sampling.temperature, explain=explain, watch=watch)


@dataclass
class Editing:
    """Edits at work while a batch is answered."""

    batch: Encoded
    run: Pass

    def watch(self, step: int, positions: Tensor, rows: Tensor) -> None:
        """Must be told of each forward after the prompt's: its step, its positions and the rows still alive."""
        run = self.run
        run.step, run.positions = step, positions.to(self.batch.input_ids.device)
        run.roles = torch.full_like(run.positions, int(Role.GENERATED), dtype=self.batch.roles.dtype)
        run.alive = torch.ones(len(rows), dtype=torch.bool)

    def last_prompt(self, states: States) -> States:
        """The states [batch, d] at the last prompt token after the edits of the final norm, of a prompt that was read without them."""
        run = self.run
        run.positions, run.roles = run.positions[:, -1:], run.roles[:, -1:]
        for site in run.places:
            edited = run.visit(site, states[:, None])
            states = states if edited is None else edited[:, 0]
        return states


@contextmanager
def editing(mllm: MLLM, batch: Encoded, edits: Sequence[Edit]) -> Iterator[Editing | None]:
    """While open, the edits act on every forward (None without any).

    Raises UsageError when an edit was never reached, so that no edit silently does nothing.
    """
    if not edits:
        yield None
        return
    everything = torch.ones(len(batch.requests), dtype=torch.bool)
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(len(batch.requests), -1)
    run = Pass({}, 0, columns, batch.roles, everything, edits=tuple(edits))

    def visit(site: Site, hidden: Hidden) -> Hidden | None:
        return run.visit(site, hidden)

    with visiting(mllm.model, mllm.layout, run.places, visit):
        yield Editing(batch, run)
    run.check()


def text_of(mllm: MLLM, decoded: Decoded) -> str:
    """The answer as text, without special tokens."""
    tokenizer: Any = mllm.tokenizer
    return str(tokenizer.decode(decoded.ids, skip_special_tokens=True)).strip()
