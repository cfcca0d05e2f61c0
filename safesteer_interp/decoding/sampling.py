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

_BLOCK = 256


def uniforms(keys: Sequence[str], seeds: Sequence[int], steps: int) -> Float[Tensor, "batch steps"]:
    """One uniform number in [0, 1) per request and step (float64, CPU); row b depends on (seeds[b], keys[b]) alone."""
    rows = [torch.rand(steps, dtype=torch.float64, generator=request_generator(seed, key)) for key, seed in zip(keys, seeds, strict=True)]
    return torch.stack(rows) if rows else torch.empty(0, steps, dtype=torch.float64)


def draw(logits: Float[Tensor, "batch n"], uniform: Float[Tensor, " batch"], temperature: float) -> Int[Tensor, " batch"]:
    """One index per row from softmax(logits / temperature), by inverse CDF at `uniform`; the largest logit at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    size = probabilities.shape[-1]
    # First the block, then the token within it: float32 sums over a 50 000-word vocabulary lose the tail, and cumulative sums in float64
    # over all of it were 8 % of a decoding step on a CPU.
    blocks = torch.nn.functional.pad(probabilities, (0, -size % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    up_to = blocks.sum(-1).cumsum(-1, dtype=torch.float64)
    threshold = uniform.to(up_to.device)[:, None] * up_to[:, -1:]
    block = torch.searchsorted(up_to, threshold, right=True).clamp_max(blocks.shape[1] - 1)
    before = torch.where(block > 0, up_to.gather(1, (block - 1).clamp_min(0)), 0.0)
    within = blocks.take_along_dim(block[..., None], dim=1).squeeze(1).cumsum(-1, dtype=torch.float64)
    share = (threshold - before) / (up_to.gather(1, block) - before)  # of the block's own sum, which was rounded to float32
    token = torch.searchsorted(within, share * within[:, -1:], right=True).clamp_max(_BLOCK - 1)
    return (block * _BLOCK + token).squeeze(1).clamp_max(size - 1)
