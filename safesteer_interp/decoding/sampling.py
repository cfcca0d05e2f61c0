"""Random numbers that belong to a request: what a batch holds besides it cannot change its sample.

Every request has one generator, seeded from (seed, request key), and spends one uniform number a step. A token is drawn by inverting
the cumulative distribution, so a whole batch is sampled at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.tracing.steps import request_generator


def uniforms(keys: Sequence[str], seeds: Sequence[int], steps: int) -> Float[Tensor, "batch steps"]:
    """One uniform number in [0, 1) per request and step (float64, CPU); row b depends on (seeds[b], keys[b]) alone."""
    rows = [
        torch.rand(steps, dtype=torch.float64, generator=request_generator(seed, key)) for key, seed in zip(keys, seeds, strict=True)
    ]
    return torch.stack(rows) if rows else torch.empty(0, steps, dtype=torch.float64)


def draw(logits: Float[Tensor, "batch n"], uniform: Float[Tensor, " batch"], temperature: float) -> Int[Tensor, " batch"]:
    """One index per row from softmax(logits / temperature), by inverse CDF at `uniform`; the largest logit at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    # float32 sums over a 50 000-word vocabulary lose the tail, hence the float64 cumulative sum
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1, dtype=torch.float64)
    threshold = uniform.to(cumulative.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(-1).clamp_max(logits.shape[-1] - 1)
