"""`generate`: answers to any number of requests, in batches of like length, under one policy and any edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from safesteer_interp.decoding.candidates import prefill
from safesteer_interp.decoding.loop import Decoded, decode
from safesteer_interp.decoding.policies import PLAIN, Policy, check_budget
from safesteer_interp.decoding.prompt_cache import distinct, read_prompts, spread
from safesteer_interp.decoding.sharing import Ask, CurrentRows, Mixed, Way, only_for, ways_of
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.tracing.sampling import uniforms
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
    edits: Sequence[Edit] = (),
    batch_size: int = 32,
    explain: bool = False,
    stop: bool = True,
    progress: Progress | None = None,
) -> list[Decoded]:
    """One answer per request, in order.

    Requests of like length share a batch; each has its own random numbers, so that the batch does not change its sample (up to the
    rounding that padding causes, 1e-5 relative in float32). `stop=False` ignores end-of-sequence tokens. Edits act on prompt and
    answer tokens as `At` says; rows that have finished leave the batch, so an edit must not carry one vector per row.
    Raises UsageError when more steps are guided than tokens generated, or when the model cannot be guided.
    """
    own = tuple(edits)
    asks = [Ask(request, sampling.seed, policy, own) for request in requests]
    found: dict[int, Decoded] = {}
    for places, answers in answer_asks(mllm, asks, sampling, batch_size=batch_size, explain=explain, stop=stop):
        found.update(zip(places, answers, strict=True))
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
            check_budget(policy.k, policy.steps, sampling.max_new_tokens)
    for places in _batches(asks, batch_size):
        yield places, decode_batch(mllm, [asks[i] for i in places], sampling, explain=explain, stop=stop)


def by_length(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Places of the requests of each batch: those of one form and like length together, so that little is padding."""
    yield from _evenly(sorted(range(len(requests)), key=lambda i: _likeness(requests[i])), batch_size)


def _likeness(request: Request) -> tuple[bool, str, int, str]:
    pictured = request.image is not None
    return pictured, str(request.attack) if pictured else "", len(request.text), request.id


def _batches(asks: Sequence[Ask], batch_size: int) -> Iterator[list[int]]:
    """By kind, then way by way, so that batch after batch asks the same requests, whose prompts are then remembered."""
    kinds: dict[tuple[bool, int, int], list[int]] = {}
    for place, ask in enumerate(asks):
        kinds.setdefault(ask.kind, []).append(place)
    for places in kinds.values():
        _, member = ways_of([asks[i] for i in places])
        way = dict(zip(places, member.tolist(), strict=True))
        yield from _evenly(sorted(places, key=lambda i: (way[i], _likeness(asks[i].request))), batch_size)


def _evenly(places: list[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of at most `batch_size` and nearly equal size, in order."""
    batches = -(-len(places) // batch_size)
    for k in range(batches):
        yield places[k * len(places) // batches : (k + 1) * len(places) // batches]


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


@dataclass
class Editing:
    """Edits at work while a batch is answered: first the distinct prompts are read, then the rows of the answers are written."""

    run: Pass
    member: Int[Tensor, " asks"]
    """Way of each answer."""
    rows: Int[Tensor, " asks"]
    """Prompt of each answer."""
    current: CurrentRows

    def answering(self) -> None:
        """The prompts have been read: from here on the batch holds one row per answer."""
        run, rows = self.run, self.rows.to(self.run.positions.device)
        run.positions, run.roles, self.current.member = run.positions[rows], run.roles[rows], self.member

    def watch(self, step: int, positions: Tensor, rows: Tensor) -> None:
        """Must be told of each forward after the prompt's: its step, its positions and the rows still alive."""
        run = self.run
        run.step, run.positions = step, positions.to(run.positions.device)
        run.roles = torch.full_like(run.positions, int(Role.GENERATED), dtype=run.roles.dtype)
        run.alive = torch.ones(len(rows), dtype=torch.bool)
        self.current.member = self.member[rows]

    def last_prompt(self, states: States) -> States:
        """The states [batch, d] at the last prompt token after the edits of the final norm, of a prompt that was read without them."""
        run = self.run
        run.positions, run.roles = run.positions[:, -1:], run.roles[:, -1:]
        for site in run.places:
            edited = run.visit(site, states[:, None])
            states = states if edited is None else edited[:, 0]
        return states


@contextmanager
def editing(
    mllm: MLLM, batch: Encoded, ways: Sequence[Way], member: Int[Tensor, " asks"], rows: Int[Tensor, " asks"]
) -> Iterator[Editing | None]:
    """While open, the edits of every way act on its rows in every forward (None where no way has any).

    Raises UsageError when an edit was never reached, so that no edit silently does nothing.
    """
    if not any(way.edits for way in ways):
        yield None
        return
    prompts = torch.zeros(len(batch.requests), dtype=torch.long)
    prompts[rows] = member
    current = CurrentRows(prompts)
    edits = ways[0].edits if len(ways) == 1 else tuple(only_for(edit, n, current) for n, way in enumerate(ways) for edit in way.edits)
    everything = torch.ones(len(batch.requests), dtype=torch.bool)
    columns = torch.arange(batch.input_ids.shape[1], device=batch.input_ids.device).expand(len(batch.requests), -1)
    run = Pass({}, 0, columns, batch.roles, everything, edits=edits)

    def visit(site: Site, hidden: Hidden) -> Hidden | None:
        return run.visit(site, hidden)

    with visiting(mllm.model, mllm.layout, run.places, visit):
        yield Editing(run, member, rows, current)
    run.check()


def text_of(mllm: MLLM, decoded: Decoded) -> str:
    """The answer as text, without special tokens."""
    tokenizer: Any = mllm.tokenizer
    return str(tokenizer.decode(decoded.ids, skip_special_tokens=True)).strip()
