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

from safesteer_interp.decoding.cache import fork
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
    """Recent prompt passes of one model, oldest forgotten first."""

    limit: int = LIMIT
    readings: list[Reading] = field(default_factory=list)

    def read(self, mllm: MLLM, batch: Encoded) -> tuple[Prefix, States]:
        """As `prefix.prefill`, from memory where one earlier batch held all of these requests."""
        keys = [f"{mllm.system_prompt!r} {mllm.thinking} {request.key()}" for request in batch.requests]
        for place, reading in enumerate(self.readings):
            if all(key in reading.rows for key in keys):
                self.readings.append(self.readings.pop(place))
                return reading.take(torch.tensor([reading.rows[key] for key in keys]))
        prefix, states = prefill(mllm.model, batch.inputs)
        reading = Reading({key: row for row, key in enumerate(keys)}, prefix, states)
        if reading.size > self.limit:
            return prefix, states
        self.readings.append(reading)
        while sum(held.size for held in self.readings) > self.limit:
            self.readings.pop(0)
        return reading.take(torch.arange(len(keys)))


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
