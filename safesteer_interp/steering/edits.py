"""Edits as pure maps of states, h [..., d] -> h' [..., d]: add, ablate, clamp, shift, align.

An edit says what happens to a state; `steering/schedule.py` says to which states. It computes in float32, returns the state's own
dtype, and never mutates. Strengths are in median residual norms of the direction's site (1.0 = one such norm).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.types import Vector
from safesteer_interp.vectors.alignment import CORRECTED_RULE, AlignmentVector, ApplicationRule
from safesteer_interp.vectors.direction import Direction


@dataclass(frozen=True, eq=False)
class Change:
    """A pure map of states that knows its width and has a key that changes whenever its result does."""

    function: Callable[[Tensor], Tensor]
    """Maps float32 states [..., d] to float32 states of the same shape."""
    name: str
    key: str
    d: int

    def __call__(self, h: Tensor) -> Tensor:
        """The changed states, in h's dtype and on its device. Raises UsageError when the width differs."""
        if h.shape[-1] != self.d:
            raise UsageError(
                f'edit "{self.name}" has a vector of width {self.d} but the states have width {h.shape[-1]}; use one fitted on this model.'
            )
        return self.function(h.float()).to(h.dtype)


def add(direction: Direction, strength: float) -> Change:
    """h + strength residual norms along the direction. Strength 0 returns h to the bit."""
    step = direction.scaled(strength)
    return _change(
        f"add {direction.name} x {strength:g}", lambda h: h + step.to(h.device), direction.vector, direction.residual_norm, strength
    )


def ablate(direction: Direction) -> Change:
    """h - (h . r) r: the state without its component along the direction (arXiv 2406.11717 eq. 4)."""
    unit = direction.vector

    def function(h: Tensor) -> Tensor:
        r = unit.to(h.device)
        return h - (h @ r)[..., None] * r

    return _change(f"ablate {direction.name}", function, unit)


def clamp(direction: Direction, low: float | None = None, high: float | None = None) -> Change:
    """The component along the direction kept between `low` and `high` residual norms; equal bounds set it to that value.

    Raises UsageError when no bound is given or low exceeds high.
    """
    if low is None and high is None:
        raise UsageError("clamp needs a lower or an upper bound, or both.")
    if low is not None and high is not None and low > high:
        raise UsageError(f"clamp got a lower bound {low} above its upper bound {high}.")
    unit, scale = direction.vector, direction.residual_norm
    bounds = [None if bound is None else bound * scale for bound in (low, high)]

    def function(h: Tensor) -> Tensor:
        r = unit.to(h.device)
        component = h @ r
        return h + (component.clamp(*bounds) - component)[..., None] * r

    return _change(f"clamp {direction.name} to [{low}, {high}]", function, unit, scale, low, high)


def shift(target: Vector, amount: float = 1.0, *, along: Direction | None = None, name: str = "target") -> Change:
    """h + amount (target - h): the state moved affinely toward a mean state [d]; amount 1 replaces it (mean ablation).

    With `along` only the component along that direction moves (affine concept editing, arXiv 2411.09003).
    Raises UsageError when target and direction have different widths.
    """
    if along is not None and along.d != len(target):
        raise UsageError(f'shift got a target of width {len(target)} and direction "{along.name}" of width {along.d}.')
    mean = target.float()

    def function(h: Tensor) -> Tensor:
        gap = mean.to(h.device) - h
        if along is None:
            return h + amount * gap
        r = along.vector.to(h.device)
        return h + amount * (gap @ r)[..., None] * r

    return _change(f"shift to {name} x {amount:g}", function, mean, amount, None if along is None else along.vector)


def align(vector: AlignmentVector, rule: ApplicationRule = CORRECTED_RULE, scale: float = 1.0) -> Change:
    """MSAV: h0 + s alpha u with alpha per state as the rule says (arXiv 2605.11716 eq. 9-10), times `scale` (0: h to the bit)."""
    return _change(f"align {rule} x {scale:g}", lambda h: vector.apply(h, rule, scale), vector.mu, vector.mean_text, rule, scale)


def _change(name: str, function: Callable[[Tensor], Tensor], vector: Tensor, *rest: Any) -> Change:
    """A Change whose key is a digest of its kind, its tensors' bytes and its numbers."""
    digest = hashlib.sha256(name.split()[0].encode())
    for part in (vector, *rest):
        digest.update(b"\0")
        digest.update(part.detach().cpu().float().contiguous().numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part).encode())
    return Change(function, name, digest.hexdigest()[:32], len(vector))
