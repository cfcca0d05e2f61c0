"""Scores the K candidates of every row in ONE forward over a shared KV cache.

The K tokens of a row sit at the same position. Through a 4-D mask each of them sees the row's real prefix and itself, so its state is
the one a separate forward would give it (Decoding-Probe, arXiv 2605.11716 eq. 4-6, needs exactly these states). The chosen
candidate's cache entry is then kept and the other K - 1 are dropped, so its state doubles as the next step's forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from safesteer_interp.decoding.cache import GrowingLayer, growing_cache
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.tracing.prefix import rope_state
from safesteer_interp.types import Mask, States

MASKED_KERNELS = ("sdpa", "eager")
"""Attention kernels that take an arbitrary additive mask."""
MASKED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass
class Prefix:
    """What a model has read so far: one cache entry and one mask column per token, left-padded, and where the next token sits."""

    cache: Cache
    mask: Mask
    """[batch, S] 1 = real token. S grows by one per kept token."""
    position: Int[Tensor, "*axes batch"]
    """Position id of the next token: [batch], or [4, batch] for Qwen-VL (text, then rope's t, h, w)."""

    def extend(self) -> None:
        """Record that one more real token per row has entered the cache."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=-1)
        self.position = self.position + 1

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop every other row from the batch (finished answers), in place."""
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[..., rows]

    def positions(self, width: int) -> Int[Tensor, "*axes batch width"]:
        """Position ids of `width` tokens that all come next."""
        return self.position[..., None].expand(*self.position.shape, width)


def decoder(model: PreTrainedModel) -> nn.Module:
    """The text decoder, called directly once the prompt is read: its `last_hidden_state` is the state after the final norm."""
    return model.get_decoder()


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


def output_logits(model: PreTrainedModel, hidden: Float[Tensor, "... d"]) -> Float[Tensor, "... vocab"]:
    """Next-token logits (float32) of states after the final norm, soft-capped where the family does so (Gemma 2)."""
    logits = model.get_output_embeddings()(hidden).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise InputError unless `output_logits` reproduces the model's own logits (some families scale them in their own way).

    Costs two forwards of one token; `load_model` makes the same check when it loads a layout.
    """
    token = torch.ones(1, 1, dtype=torch.long, device=model.device)
    own = model(input_ids=token, use_cache=False).logits[:, -1].float()
    ours = output_logits(model, decoder(model)(input_ids=token, use_cache=False).last_hidden_state[:, -1])
    gap = float((own - ours).abs().max() / own.abs().max().clamp_min(1e-6))
    if gap > 0.02:
        raise InputError(
            f"{type(model).__name__} computes its logits in a way that final norm and LM head do not reproduce (relative gap {gap:.2g}); "
            "guided decoding cannot be used with this architecture."
        )


def prompt_inputs(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of the prompt pass, prepared by transformers' own generation helpers, with a fresh cache.

    So prefix masks (PaliGemma, Gemma 3), one-based positions (PaliGemma) and M-RoPE (Qwen-VL) are those of `model.generate`.
    """
    helper: Any = model
    rest: dict[str, Any] = {name: value for name, value in inputs.items() if name != "input_ids"}
    rest["position_ids"] = helper._prepare_position_ids_for_generation(inputs["input_ids"], rest)
    rest |= {"use_cache": True, "past_key_values": growing_cache(model.config.get_text_config())}
    return helper.prepare_inputs_for_generation(inputs["input_ids"], is_first_iteration=True, **rest)


@torch.no_grad()
def prefill(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Prefix, States]:
    """Read a left-padded batch; returns the prefix and h0 [batch, d], the state after the final norm at the last prompt token."""
    with rope_state(model):
        return read_prompt(model, prompt_inputs(model, inputs), inputs["attention_mask"])


@torch.no_grad()
def read_prompt(model: PreTrainedModel, prepared: Mapping[str, Any], mask: Mask) -> tuple[Prefix, States]:
    """The prompt pass on inputs that are already prepared (`prompt_inputs`, or transformers' generate)."""
    prepared = {name: value for name, value in prepared.items() if name not in ("logits_to_keep", "labels")}
    out = model.base_model(**prepared)
    prefix = Prefix(out.past_key_values, mask, prepared["position_ids"][..., -1] + 1)
    return prefix, out.last_hidden_state[:, -1].clone()


@torch.no_grad()
def advance(model: PreTrainedModel, prefix: Prefix, tokens: Int[Tensor, " batch"]) -> States:
    """Read one token per row (an ordinary cached step); returns its state [batch, d] after the final norm."""
    positions = prefix.positions(1)
    prefix.extend()
    out = decoder(model)(
        input_ids=tokens[:, None],
        attention_mask=prefix.mask,
        position_ids=positions,
        past_key_values=prefix.cache,
        use_cache=True,
    )
    return out.last_hidden_state[:, -1]


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
