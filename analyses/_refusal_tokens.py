"""Refusal tokens of the model at hand: the first answer tokens that harmful requests in words raise over harmless ones.

arXiv 2406.11717 (appendix B) compiles them per model from how its answers to harmful and to harmless instructions start. A list of
published openings ("I", "Sorry", "As", "Unfortunately") misses most of a model that declines in many words.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from safesteer_interp.requests import Attack
from safesteer_interp.runner.context import Context
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import Paired, fit_spec

LEAST, RATIO = 0.005, 2.0
"""A refusal token has at least this mean probability as the first token of answers to harmful texts, and this many times that of
answers to their harmless twins (which a model refuses now and then as well)."""


def tokens_spec(p: Paired) -> TraceSpec:
    """The training requests in words that the tokens are found on."""
    return fit_spec(p, attacks=(Attack.TEXT,), sites=("final_norm",))


def refusal_tokens(ctx: Context, p: Paired) -> tuple[int, ...]:
    """Ids, sorted; the first tokens of the published openings where no token qualifies, as of a model that does not refuse."""
    from safesteer_interp.models.openings import refusal_token_ids

    view = ctx.trace(tokens_spec(p))
    first = _probabilities(ctx.head(view.rows("final_norm", "last_prompt"), normed=True))
    harmful = view.labels.harmful
    found = raised_tokens(first[harmful].mean(axis=0), first[~harmful].mean(axis=0))
    return found or refusal_token_ids(ctx.model)


def raised_tokens(harmful: np.ndarray, harmless: np.ndarray, least: float = LEAST, ratio: float = RATIO) -> tuple[int, ...]:
    """Tokens that harmful requests raise, from mean first-token probabilities [vocab] of both classes."""
    return tuple(int(i) for i in np.flatnonzero((harmful >= least) & (harmful >= ratio * harmless)))


def _probabilities(logits: Any) -> np.ndarray:
    from scipy.special import softmax

    return np.asarray(softmax(logits.astype(np.float64), axis=1))
