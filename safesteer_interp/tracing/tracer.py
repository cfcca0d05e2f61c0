"""The contract every tracer keeps, and the records that cross it.

A tracer runs ONE batch: one prompt pass, then (only when a `step:k` read or generation is asked) cached decoding steps. It returns
states at the asked sites and reads, the generated ids, and first-step logits when asked. Three implementations agree to float
tolerance: `hooks.py` (plain torch, the default and the yardstick), `nnsight.py` (local or NDIF) and `transformer_lens.py` (bridge).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import Encoded
from safesteer_interp.sites import Read, Site
from safesteer_interp.tracing.engines import DEFAULT_TRACER, TRACERS
from safesteer_interp.types import Hidden, Logits, Roles, States

__all__ = ["DEFAULT_TRACER", "GREEDY", "TRACERS", "At", "Captured", "Edit", "EditFunction", "Sampling", "Tracer"]


@dataclass(frozen=True)
class At:
    """Where an edit is being applied. Everything is absolute: nothing is inferred from the length of the current chunk."""

    site: Site
    step: int
    """0 = prompt pass; k = the pass that consumed the k-th generated token."""
    positions: Tensor
    """[batch, chunk] absolute index into the padded sequence (prompt, then generated)."""
    roles: Roles
    """[batch, chunk] role of each token in this chunk."""
    last_prompt: Tensor
    """[batch, chunk] bool, True at the last prompt token (only in the prompt pass)."""
    rows: Tensor | None = None
    """In the eyes, whose states are [parts, tokens, width]: the row of the batch that each part belongs to [parts]. Else None."""


EditFunction = Callable[[Hidden, At], Hidden]
"""A pure function (h [batch, chunk, d], at) -> h; it never mutates its argument."""


@dataclass(frozen=True)
class Edit:
    """An edit function bound to the sites it acts on."""

    sites: tuple[Site, ...]
    function: EditFunction
    name: str = "edit"
    key: str = ""
    """Identity of what the function computes (e.g. a digest of direction, strength and schedule). A trace with edits is stored
    only when every edit has one, since a function cannot be hashed."""
    last_step: int | None = None
    """The last step at which it changes anything, where it is known: later passes of an answer need not visit it. None: to the end."""
    eyes: bool = False
    """It knows states of the eyes, which are no tokens of a sequence (`At.rows`); others are refused there."""
    late: bool = False
    """It leaves every state before the last prompt token alone, so that the rest of the prompt need not be read again for it."""


@dataclass(frozen=True)
class Sampling:
    """How generated tokens are chosen. Temperature 0 is greedy (the default for traces)."""

    max_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    """One generator per request, derived from (seed, request key): batch composition cannot change a sample."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}; it must be 0 or more.")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature is {self.temperature}; it must be 0 (greedy) or a positive number.")


GREEDY = Sampling()
"""No answer beyond what the reads ask for, chosen greedily."""


@dataclass
class Captured:
    """What one batch gave. Float tensors keep the model's dtype, on the CPU, cloned (never views of a whole sequence)."""

    states: dict[tuple[Site, Read], States] = field(default_factory=dict)
    """[batch, d] per (site, read); NaN rows where a read does not exist for a row (no image; answer ended before step k)."""
    present: dict[Read, Tensor] = field(default_factory=dict)
    """[batch] bool per read: the rows for which it exists. Everywhere else the states are NaN."""
    generated: list[list[int]] = field(default_factory=list)
    """Generated token ids per row, cut after the first end-of-sequence token (kept; no pass consumes it, so it is no step)."""
    logits: Logits | None = None
    """[batch, vocab] next-token logits at the last prompt token, float32, only when asked."""


@runtime_checkable
class Tracer(Protocol):
    """Runs one batch and captures all asked sites and reads in one pass."""

    name: str

    def capture(
        self,
        batch: Encoded,
        sites: Sequence[Site],
        reads: Sequence[Read],
        *,
        sampling: Sampling = GREEDY,
        edits: Sequence[Edit] = (),
        logits: bool = False,
    ) -> Captured: ...
