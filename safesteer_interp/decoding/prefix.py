"""What a model has read: the prompt pass, and the cached step after it.

Everything that writes answers (plain, guided, under edits, in transformers' own `generate`) starts from a `Prefix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from safesteer_interp.decoding.cache import drop_left, growing_cache, join, joinable
from safesteer_interp.errors import InputError
from safesteer_interp.models.head import output_logits
from safesteer_interp.tracing.prefix import prompt_inputs, rope_state
from safesteer_interp.types import Mask, States

TRIMMED = 8
"""Columns of padding that are worth forgetting."""


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
        """Drop every other row from the batch (finished answers), in place, in the order given (cheapest: `filled_up`)."""
        rows = rows.to(self.mask.device)
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[..., rows]

    def join(self, other: Prefix, rows: Int[Tensor, " joining"]) -> None:
        """Put some rows of another prefix behind these; the last token of every row stays in the last column."""
        join(self.cache, other.cache, rows)
        width = max(self.mask.shape[1], other.mask.shape[1])
        rows = rows.to(self.mask.device)
        self.mask = torch.cat([_widened(self.mask, width), _widened(other.mask[rows], width)])
        positions = [self.position, other.position[..., rows]]
        if positions[0].ndim != positions[1].ndim:  # Qwen-VL counts text along one axis and pictures along four
            axes = max(len(p) for p in positions if p.ndim == 2)
            positions = [p if p.ndim == 2 else p.expand(axes, -1) for p in positions]
        self.position = torch.cat(positions, dim=-1)

    def trim(self) -> None:
        """Forget columns that are padding in every row, once there are some."""
        empty = int(self.mask.argmax(1).min())
        if empty >= TRIMMED and joinable(self.cache):
            drop_left(self.cache, empty)
            self.mask = self.mask[:, empty:]

    def positions(self, width: int) -> Int[Tensor, "*axes batch width"]:
        """Position ids of `width` tokens that all come next."""
        return self.position[..., None].expand(*self.position.shape, width)


def filled_up(kept: Sequence[int], rows: int) -> Int[Tensor, " kept"]:
    """The kept rows of `rows`, each in its place where it can stay; the last ones fill the gaps, so that few entries are moved."""
    staying = set(kept)
    behind = [row for row in range(rows - 1, len(kept) - 1, -1) if row in staying]
    return torch.tensor([row if row in staying else behind.pop() for row in range(len(kept))], dtype=torch.long)


def _widened(mask: Mask, width: int) -> Int[Tensor, "batch width"]:
    """A mask with padding on the left."""
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def decoder(model: PreTrainedModel) -> nn.Module:
    """The text decoder, called directly once the prompt is read: its `last_hidden_state` is the state after the final norm."""
    return model.get_decoder()


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


@torch.no_grad()
def prefill(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> tuple[Prefix, States]:
    """Read a left-padded batch; returns the prefix and h0 [batch, d], the state after the final norm at the last prompt token."""
    cache = growing_cache(model.config.get_text_config())
    with rope_state(model):
        return read_prompt(model, prompt_inputs(model, inputs, cache), inputs["attention_mask"])


@torch.no_grad()
def read_prompt(model: PreTrainedModel, prepared: Mapping[str, Any], mask: Mask) -> tuple[Prefix, States]:
    """The prompt pass on inputs that are already prepared (`tracing.prefix.prompt_inputs`, or transformers' generate)."""
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
