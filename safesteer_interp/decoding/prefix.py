"""What a model has read: the prompt pass, the cached step after it, and the head that turns states into logits.

Everything that writes answers (plain, guided, under edits, in transformers' own `generate`) starts from a `Prefix`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from safesteer_interp.decoding.cache import growing_cache
from safesteer_interp.errors import InputError
from safesteer_interp.tracing.steps import rope_state
from safesteer_interp.types import Mask, States


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
