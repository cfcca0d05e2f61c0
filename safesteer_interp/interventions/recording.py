"""One prompt pass, kept whole: what enters and leaves every decoder layer at every token, the keys and values, and how layers were called.

It is what patches are taken from, and what `replaying.py` starts from: every layer below an intervention, and every token before it, need
not be computed again. Memory: about 5 states and 2 keys or values per token and layer (mini: 30 MB a request; a 7B model with 600
tokens: 0.7 GB in bfloat16), so that pairs are recorded one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from safesteer_interp.errors import UsageError
from safesteer_interp.interventions.alignment import RowRoles
from safesteer_interp.models.layout import submodule
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.tracing.prefix import prompt_inputs, rope_state

SequenceStates = Float[Tensor, "sequence d"]


@dataclass
class Recording:
    """One request's prompt pass. Everything keeps the model's dtype and device; nothing is padded."""

    request: Request
    roles: RowRoles
    """[sequence] on the CPU."""
    ids: Int[Tensor, " sequence"]
    entering: list[SequenceStates] = field(default_factory=list)
    """Per layer, what it was given [sequence, d]."""
    states: dict[Site, SequenceStates] = field(default_factory=dict)
    """resid_post, attn_out and mlp_out of every layer, and embed."""
    heads: list[Float[Tensor, "sequence width"]] = field(default_factory=list)
    """Per layer, what the heads hand to the output projection, one head after the other [sequence, heads * head width]."""
    calls: list[dict[str, Any]] = field(default_factory=list)
    """Per layer, the other arguments it was called with: mask, rotary embeddings, positions."""
    keys: list[Float[Tensor, "1 kv_heads sequence head"]] = field(default_factory=list)
    values: list[Float[Tensor, "1 kv_heads sequence head"]] = field(default_factory=list)
    final: Float[Tensor, "1 d"] = field(default_factory=lambda: torch.empty(1, 0))
    """The last prompt token's state after the final norm, which the first answer token is read from."""

    @property
    def length(self) -> int:
        return len(self.roles)

    @cached_property
    def added_after(self) -> list[SequenceStates | None]:
        """Per layer, what the model itself adds between it and the next (Qwen3-VL's deepstack features); None where nothing."""
        found: list[Tensor | None] = []
        for layer, following in enumerate(self.entering[1:]):
            out = self.states[Site(SiteKind.RESID_POST, layer)].to(following.device)
            found.append(None if torch.equal(out, following) else following - out)
        return [*found, None]

    def mask(self, layer: int) -> Tensor | None:
        """The attention mask [1, 1, sequence, sequence] a layer was given; None for plain causal attention.

        Raises UsageError for an attention kernel that takes no such mask.
        """
        mask = self.calls[layer].get("attention_mask")
        if mask is None or (isinstance(mask, Tensor) and mask.ndim == 4):
            return mask
        raise UsageError('interventions need the attention kernel "sdpa" or "eager"; load the model with one of these.')


@torch.no_grad()
def record(mllm: MLLM, request: Request) -> Recording:
    """Run a request's prompt pass once and keep it. Raises InputError for a request that cannot be encoded."""
    batch = mllm.encode([request]).to(mllm.device)
    found = Recording(request, batch.roles[0].cpu().long(), batch.input_ids[0].cpu())
    kinds = (SiteKind.RESID_POST, SiteKind.ATTN_OUT, SiteKind.MLP_OUT)
    sites = (Site(SiteKind.EMBED), *(Site(kind, layer) for layer in range(mllm.n_layers) for kind in kinds), Site(SiteKind.FINAL_NORM))

    def keep(site: Site, hidden: Tensor) -> None:
        if site.kind is SiteKind.FINAL_NORM:
            found.final = hidden[:, -1].clone()
        else:
            found.states[site] = hidden[0].clone()

    with mllm.lock, rope_state(mllm.model), visiting(mllm.model, mllm.layout, sites, keep), _calls(mllm, found):
        cache = DynamicCache()  # without a config: sliding layers too keep every token
        inputs = prompt_inputs(mllm.model, batch.inputs, cache) | {"logits_to_keep": 1}
        mllm.model(**inputs)
    found.keys = [layer.keys for layer in cache.layers]
    found.values = [layer.values for layer in cache.layers]
    return found


def output_projection(mllm: MLLM, layer: int) -> nn.Module:
    """The module that joins the heads of a layer. Raises InputError when the family calls it otherwise."""
    return submodule(mllm.model, f"{mllm.layout.layers}.{layer}.{mllm.layout.attention}.o_proj")


@contextmanager
def _calls(mllm: MLLM, found: Recording) -> Iterator[None]:
    """While open, keeps how the decoder layers are called and what their heads give."""

    def of_layer(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden, others = (args[0], kwargs) if args else (kwargs["hidden_states"], {k: v for k, v in kwargs.items() if k != "hidden_states"})
        found.entering.append(hidden[0].clone())
        found.calls.append({name: value for name, value in others.items() if name not in ("past_key_values", "use_cache")})

    def of_heads(module: nn.Module, args: tuple[Any, ...]) -> None:
        found.heads.append(args[0][0].clone())

    with ExitStack() as stack:
        for layer, module in enumerate(mllm.layers):
            stack.callback(module.register_forward_pre_hook(of_layer, with_kwargs=True).remove)
            stack.callback(output_projection(mllm, layer).register_forward_pre_hook(of_heads).remove)
        yield
