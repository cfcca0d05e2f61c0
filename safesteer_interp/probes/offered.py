"""Offered: the candidates that a model offered at the first steps of its own answers, and what it does after each of them.

This is where guidance chooses: among K tokens of one prompt at one step. `decoding/rollouts.py` measures them; here they are numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safesteer_interp.errors import InputError

_ROWS = ("states", "refusal", "steps", "prompts", "pairs", "forms", "tokens", "log_probs")


@dataclass(frozen=True, eq=False)
class Offered:
    """One row per candidate. Raises InputError when a field has another number of rows than `states`."""

    states: Float[np.ndarray, "n d"]
    """Of the pass that consumed the candidate, at the probe's site."""
    refusal: Bool[np.ndarray, " n"]
    """True where the model, made to say the candidate, goes on to refuse (greedy roll-out); all False where none was rolled out."""
    steps: Int[np.ndarray, " n"]
    """Decoding step whose token it could be: 0 is the first answer token. A probe scores it as step + 1."""
    prompts: np.ndarray
    """Request id of each row."""
    pairs: np.ndarray
    """Pair id of each row: the cluster of intervals."""
    forms: np.ndarray
    """Attack of each row: comparisons are made within a form."""
    tokens: Int[np.ndarray, " n"]
    log_probs: Float[np.ndarray, " n"]
    """Natural log of the model's probability (full vocabulary, temperature 1)."""
    labelled: bool = True
    """Whether `refusal` was measured."""

    def __post_init__(self) -> None:
        for name in _ROWS:
            values = np.asarray(getattr(self, name))
            if len(values) != len(self.states):
                raise InputError(f"{len(self.states)} candidates were given but `{name}` has {len(values)} entries; give one each.")
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        kinds = f", {int(self.refusal.sum())} before a refusal" if self.labelled else ""
        return f"Offered({len(self)} candidates{kinds}; {len(set(self.prompts))} requests, steps {sorted(set(self.steps.tolist()))})"

    def take(self, mask: Bool[np.ndarray, " n"]) -> Offered:
        """The rows of a mask."""
        taken: dict[str, Any] = {name: getattr(self, name)[mask] for name in _ROWS}
        return Offered(**taken, labelled=self.labelled)

    @property
    def groups(self) -> Int[np.ndarray, " n"]:
        """Number of the choice that a row belongs to: one request at one step."""
        keys = np.array([f"{prompt}\0{step}" for prompt, step in zip(self.prompts, self.steps, strict=True)])
        return np.unique(keys, return_inverse=True)[1] if len(keys) else np.zeros(0, dtype=int)

    def contested(self) -> Offered:
        """The choices that can go either way: some candidates lead to a refusal and some do not."""
        groups = self.groups
        share = np.bincount(groups, self.refusal) / np.bincount(groups) if len(groups) else np.zeros(0)
        return self.take(((share > 0) & (share < 1))[groups]) if len(groups) else self

    def choices(self) -> Iterator[Int[np.ndarray, " k"]]:
        """Rows of each choice."""
        groups = self.groups
        order = np.argsort(groups, kind="stable")
        yield from np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else ()

    def spread(self, scores: Float[np.ndarray, " n"]) -> float:
        """Standard deviation of scores within a choice, pooled. Raises InputError where no choice has two candidates."""
        within = [scores[rows] - scores[rows].mean() for rows in self.choices() if len(rows) > 1]
        if not within:
            raise InputError("no step offered two candidates, so the spread of scores among candidates is unknown; give K of 2 or more.")
        free = sum(len(each) - 1 for each in within)
        return float(np.sqrt(sum(float((each**2).sum()) for each in within) / free))
