"""Scores the K candidates of every row in ONE forward over a shared KV cache.

The K tokens of a row sit at the same position. Through a 4-D mask each of them sees the row's real prefix and itself, so its state is
the one a separate forward would give it (Decoding-Probe, arXiv 2605.11716 eq. 4-6, needs exactly these states). The chosen
candidate's cache entry is then kept and the other K - 1 are dropped, so its state doubles as the next step's forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from safesteer_interp.decoding.cache import GrowingLayer
from safesteer_interp.decoding.prefix import Prefix, decoder
from safesteer_interp.errors import UsageError
from safesteer_interp.models.layout import Layout
from safesteer_interp.sites import Site
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.types import Hidden, Mask, States

MASKED_KERNELS = ("sdpa", "eager")
"""Attention kernels that take an arbitrary additive mask."""
MASKED_LAYERS = {"full_attention", "sliding_attention"}


def check_maskable(model: PreTrainedModel, cache: Cache | None = None) -> None:
    """Raise UsageError unless the model's attention takes a per-candidate mask and its cache can be rolled back."""
    config = model.config.get_text_config()
    kernel = config._attn_implementation
    if kernel not in MASKED_KERNELS:
        raise UsageError(
            f'guided decoding needs an attention that takes an arbitrary mask, and "{kernel}" does not; '
            'load the model with attn_implementation="sdpa" (or "eager").'
        )
    odd = set(getattr(config, "layer_types", None) or ()) - MASKED_LAYERS
    if odd:
        raise UsageError(
            f"guided decoding cannot score candidates on {type(model).__name__}: its {', '.join(sorted(odd))} layers carry a state that "
            "no mask separates per candidate and that cannot be rolled back; use a model with full or sliding attention only."
        )
    for layer in () if cache is None else cache.layers:
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, GrowingLayer):
            raise UsageError(
                f"guided decoding needs a dynamic key-value cache, not {type(layer).__name__}; "
                "generate with the default cache_implementation."
            )


def candidate_mask(prefix_mask: Mask, k: int, dtype: torch.dtype) -> Float[Tensor, "batch 1 k all"]:
    """Additive mask [batch, 1, k, S + k]: every candidate sees the real prefix and itself, never another candidate.

    Always additive floats: eager attention would silently add a boolean mask as 0 and 1.
    """
    batch, length = prefix_mask.shape
    mask = torch.full((batch, 1, k, length + k), torch.finfo(dtype).min, dtype=dtype, device=prefix_mask.device)
    mask[..., :length].masked_fill_(prefix_mask[:, None, None, :].bool(), 0.0)
    mask[..., length:].diagonal(dim1=-2, dim2=-1).fill_(0.0)
    return mask


def attention_masks(model: PreTrainedModel, prefix: Prefix, k: int) -> Tensor | dict[str, Tensor]:
    """`candidate_mask` in the form the family takes: one tensor, or one per layer type where layers differ (Gemma 3)."""
    full = candidate_mask(prefix.mask, k, model.dtype)
    windows = {layer.sliding_window for layer in prefix.cache.layers if getattr(layer, "is_sliding", False)}
    if not windows:
        return full
    sliding = candidate_mask(prefix.mask[:, -(windows.pop() - 1) :], k, model.dtype)
    if all(getattr(layer, "is_sliding", False) for layer in prefix.cache.layers):
        return sliding
    return {"full_attention": full, "sliding_attention": sliding}


@contextmanager
def states_at(model: PreTrainedModel, layout: Layout | None, sites: Sequence[Site]) -> Iterator[dict[Site, Hidden]]:
    """While open, the states [batch, tokens, d] that the last forward left at the sites, after edits that were opened before this.

    Raises UsageError when sites are asked for and no layout says where they are.
    """
    found: dict[Site, Hidden] = {}
    if not sites:
        yield found
        return
    if layout is None:
        raise UsageError(f"candidates are to be scored at {', '.join(map(str, sites))}, but no layout says where that is in this model.")

    def visit(site: Site, hidden: Hidden) -> None:
        found[site] = hidden

    with visiting(model, layout, tuple(sites), visit):
        yield found


@torch.no_grad()
def score_candidates(model: PreTrainedModel, prefix: Prefix, candidates: Int[Tensor, "batch k"]) -> Float[Tensor, "batch k d"]:
    """States [batch, k, d] after the final norm of k alternatives for the same next position, in one forward.

    The cache holds S + k entries afterwards; `keep_candidate` must follow before anything else is read.
    """
    for layer in prefix.cache.layers:
        if getattr(layer, "is_sliding", False):  # keeps what leaves the window until the choice is made
            layer.activate_past_recording()
    out = decoder(model)(
        input_ids=candidates,
        attention_mask=attention_masks(model, prefix, candidates.shape[1]),
        position_ids=prefix.positions(candidates.shape[1]),
        past_key_values=prefix.cache,
        use_cache=True,
    )
    return out.last_hidden_state


@torch.no_grad()
def keep_candidate(prefix: Prefix, choice: Int[Tensor, " batch"], k: int) -> None:
    """Keep candidate `choice[b]` of the k entries appended last to row b and drop the others, in place."""
    for layer in prefix.cache.layers:
        for name in ("keys", "values"):
            entries = getattr(layer, name)
            first = entries.shape[-2] - k
            index = (first + choice).to(entries.device).view(-1, 1, 1, 1).expand(-1, entries.shape[1], 1, entries.shape[3])
            entries[:, :, first : first + 1] = entries.gather(2, index)
    prefix.cache.crop(-(k - 1))
    for layer in prefix.cache.layers:
        if getattr(layer, "is_sliding", False):
            layer.record_past = False
    prefix.extend()


def chosen_states(hidden: Float[Tensor, "batch k d"], choice: Int[Tensor, " batch"]) -> States:
    """The state [batch, d] of each row's chosen candidate."""
    return hidden[torch.arange(len(hidden), device=hidden.device), choice.to(hidden.device)]
