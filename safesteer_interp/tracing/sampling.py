"""The one chooser of tokens, for tracing and decoding alike: same request, seed and temperature, same tokens.

Every request has one generator, seeded from (seed, request key), and spends one uniform number a step: what a batch holds besides it
cannot change its sample. A token is drawn by inverting the cumulative distribution, so a whole batch is sampled at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BLOCK = 256


def request_generator(seed: int, key: str) -> torch.Generator:
    """The generator of one request, from (seed, request key): batch composition cannot change a sample."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def uniforms(keys: Sequence[str], seeds: Sequence[int], steps: int) -> Float[Tensor, "batch steps"]:
    """One uniform number in [0, 1) per request and step (float64, CPU); row b depends on (seeds[b], keys[b]) alone, and fewer
    steps give the first numbers of more."""
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
