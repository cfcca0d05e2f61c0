"""Prompts that are read once: the caches of recent prompt passes, for everything that answers the same requests again.

Reading a prompt with an image costs about as much as writing its answer (150 tokens against 128), and an evaluation answers every
request under many defenses and seeds. Only unedited prompt passes may be shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.decoding.cache import fork, joinable
from safesteer_interp.decoding.prefix import Prefix, prefill
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.types import States

LIMIT = 2 << 30
"""Bytes of keys and values that are kept, on the model's device."""


@dataclass
class Reading:
    """One batch as it was read."""

    rows: dict[str, int]
    """Row of each request, by the request's content key."""
    prefix: Prefix
    states: States

    @property
    def size(self) -> int:
        """Bytes of its keys and values."""
        tensors = (getattr(layer, name, None) for layer in self.prefix.cache.layers for name in ("keys", "values"))
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def take(self, rows: Int[Tensor, " taken"]) -> tuple[Prefix, States]:
        """Copies of some rows, in the order asked; what is written onto them does not reach the original."""
        taken = Prefix(fork(self.prefix.cache), self.prefix.mask, self.prefix.position)
        taken.keep_rows(rows)
        return taken, self.states[rows.to(self.states.device)]


@dataclass
class PromptMemory:
    """Recent prompt passes of one model, those that were used least recently forgotten first."""

    limit: int = LIMIT
    readings: list[Reading] = field(default_factory=list)

    def read(self, mllm: MLLM, batch: Encoded) -> tuple[Prefix, States]:
        """As `prefix.prefill`, with every prompt that was read before taken from memory, whichever batch it was read in.

        Conditions of an evaluation answer different parts of one set of requests, so that few of their batches are alike.
        """
        keys = [f"{mllm.system_prompt!r} {mllm.thinking} {request.key()}" for request in batch.requests]
        parts, lacking = self._held(keys)
        if lacking and parts and not joinable(parts[0][0].prefix.cache):
            parts, lacking = [], list(range(len(keys)))  # rows of two passes cannot lie in one cache
        if lacking:
            asked = batch if len(lacking) == len(keys) else mllm.encode([batch.requests[i] for i in lacking]).to(mllm.device)
            prefix, states = prefill(mllm.model, asked.inputs)
            reading = Reading({keys[i]: row for row, i in enumerate(lacking)}, prefix, states)
            if not parts and reading.size > self.limit:
                return prefix, states
            parts.append((reading, lacking))
        self._keep([reading for reading, _ in parts])
        return _gathered(parts, keys)

    def _held(self, keys: Sequence[str]) -> tuple[list[tuple[Reading, list[int]]], list[int]]:
        """The readings that hold some of the prompts with the places of those they are taken for, and the places of all others."""
        left = list(range(len(keys)))
        parts: list[tuple[Reading, list[int]]] = []
        # Where one pass holds them all, only its rows lie side by side without further padding.
        latest = list(reversed(self.readings))  # of equals the latest comes first
        for reading in sorted(latest, key=lambda held: sum(key in held.rows for key in keys), reverse=True):
            mine = [i for i in left if keys[i] in reading.rows]
            if mine and (not parts or joinable(reading.prefix.cache)):
                parts.append((reading, mine))
                left = [i for i in left if keys[i] not in reading.rows]
        return parts, left

    def _keep(self, used: Sequence[Reading]) -> None:
        """Remember these as the latest, and forget the oldest beyond the limit."""
        self.readings = [held for held in self.readings if not any(held is one for one in used)] + list(used)
        while self.readings and sum(held.size for held in self.readings) > self.limit:
            self.readings.pop(0)


def _gathered(parts: Sequence[tuple[Reading, list[int]]], keys: Sequence[str]) -> tuple[Prefix, States]:
    """Copies of rows of several readings as one batch, in the order of the keys."""
    taken = [reading.take(torch.tensor([reading.rows[keys[i]] for i in places])) for reading, places in parts]
    prefix, states = taken[0]
    if len(taken) == 1:
        return prefix, states
    for other, _ in taken[1:]:
        prefix.join(other, torch.arange(len(other.mask)))
    prefix.trim()
    order = torch.tensor([place for _, places in parts for place in places]).argsort()
    prefix.keep_rows(order)
    return prefix, torch.cat([own for _, own in taken])[order.to(states.device)]


def distinct(requests: Sequence[Request], apart: Int[Tensor, " all"] | None = None) -> tuple[list[Request], Int[Tensor, " all"]]:
    """Each different request once, in order of appearance, and for every request its row among them.

    Requests with different numbers in `apart` are kept apart even where text and pixels are the same.
    """
    row: dict[tuple[str, int], int] = {}
    found: list[Request] = []
    rows = []
    for place, request in enumerate(requests):
        key = request.key(), 0 if apart is None else int(apart[place])
        if key not in row:
            row[key] = len(found)
            found.append(request)
        rows.append(row[key])
    return found, torch.tensor(rows, dtype=torch.long)


def spread(prefix: Prefix, states: States, rows: Int[Tensor, " all"]) -> Float[Tensor, "all d"]:
    """From one row per distinct prompt to one per answer: the prefix in place, the states returned. `rows` are those of `distinct`."""
    if torch.equal(rows, torch.arange(len(states))):
        return states
    prefix.keep_rows(rows)
    return states[rows.to(states.device)]


def read_prompts(mllm: MLLM, batch: Encoded) -> tuple[Prefix, States]:
    """The prompt pass over a batch on the model's device, from the model's memory when it has one (`remembering_prompts`)."""
    memory: PromptMemory | None = mllm.prompts
    return memory.read(mllm, batch) if memory is not None else prefill(mllm.model, batch.inputs)


@contextmanager
def forgetting_prompts(mllm: MLLM) -> Iterator[None]:
    """While open, every prompt is read as if for the first time: for timing."""
    memory, mllm.prompts = mllm.prompts, None
    try:
        yield
    finally:
        mllm.prompts = memory


@contextmanager
def remembering_prompts(mllm: MLLM, limit: int = LIMIT) -> Iterator[None]:
    """While open, unedited prompts are read once. Within another such block nothing changes."""
    if mllm.prompts is not None:
        yield
        return
    mllm.prompts = PromptMemory(limit)
    try:
        yield
    finally:
        mllm.prompts = None
