"""States of emitted tokens, and whether the answer they begin refuses."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.refusals import is_refusal
from safesteer_interp.sites import ReadKind, Site, SiteKind
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.types import RowMask

SITE = Site(SiteKind.FINAL_NORM)
"""Where the probe reads and scores: the state the next token is predicted from."""


@dataclass(frozen=True, eq=False)
class TokenStates:
    """States of emitted tokens at the probe's site, one row per token. Rows with NaN (answer ended early) are dropped."""

    states: Float[np.ndarray, "n d"]
    refusal: Bool[np.ndarray, " n"]
    """True for tokens of refusals, False for tokens of compliances."""
    steps: Int[np.ndarray, " n"]
    """Decoding step that consumed the token (1 = first generated token)."""
    prompts: np.ndarray
    """Pair id of each row's request."""

    def __post_init__(self) -> None:
        n = len(self.states)
        for name in ("refusal", "steps", "prompts"):
            values = np.asarray(getattr(self, name))
            if len(values) != n:
                raise InputError(f"token states have {n} rows but `{name}` has {len(values)}; give one entry per token.")
            object.__setattr__(self, name, values)
        keep = np.isfinite(self.states).all(axis=1)
        if not keep.all():
            for name in ("states", "refusal", "steps", "prompts"):
                object.__setattr__(self, name, getattr(self, name)[keep])

    def __len__(self) -> int:
        return len(self.states)

    def __repr__(self) -> str:
        refusals, steps = int(self.refusal.sum()), sorted(set(self.steps.tolist()))
        return (
            f"TokenStates({refusals} tokens of refusals, {len(self) - refusals} of compliances, steps {steps}, d = {self.states.shape[1]})"
        )

    def at(self, step: int) -> TokenStates:
        """The rows of one decoding step."""
        keep = self.steps == step
        return TokenStates(self.states[keep], self.refusal[keep], self.steps[keep], self.prompts[keep])


def token_states(
    trace: Traced, rows: RowMask, *, steps: Collection[int] | None = None, harmless: bool = False, site: Site = SITE
) -> TokenStates:
    """States of the first answer tokens to the harmful requests among `rows`, labelled by whether the answer refuses.

    `steps`: only these of the trace's steps; None: all of them. Harmless requests are left out unless asked for, so that refusal against
    compliance is not harmful against harmless once more. Raises UsageError when the trace holds no such step.
    """
    reads = sorted((read for read in trace.reads if read.kind is ReadKind.STEP), key=lambda read: read.step or 0)
    reads = [read for read in reads if steps is None or read.step in steps]
    if not reads:
        raise UsageError('the trace holds no answer tokens; capture it with reads "last_prompt,step:1-5".')
    index, texts = trace.index, trace.texts
    asked = np.flatnonzero(rows if harmless else rows & index["harmful"].to_numpy(dtype=bool))
    refusal = np.array([is_refusal(texts[i]) for i in asked], dtype=bool)
    states, labels, numbers, prompts = [], [], [], []
    for read in reads:
        there = trace.present(read)[asked]
        states.append(trace.rows(site, read)[asked[there]])
        labels.append(refusal[there])
        numbers.append(np.full(int(there.sum()), read.step, dtype=np.int64))
        prompts.append(index["pair"].to_numpy()[asked[there]])
    return TokenStates(np.concatenate(states), np.concatenate(labels), np.concatenate(numbers), np.concatenate(prompts))
