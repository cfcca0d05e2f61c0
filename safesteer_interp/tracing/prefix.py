"""What the prompt pass and the steps after it are given: prepared by transformers' own generation helpers, for tracing and decoding.

So M-RoPE (Qwen-VL), one-based positions (PaliGemma) and prefix masks (PaliGemma, Gemma 3) are those of `model.generate`. Position ids
are always explicit, because Qwen-VL otherwise crashes on, or silently reuses, the `rope_deltas` of an earlier prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from safesteer_interp.models.mllm import Encoded


def prompt_kwargs(model: PreTrainedModel, inputs: Mapping[str, Tensor], cache: Cache | None) -> dict[str, Any]:
    """What transformers' generation carries along beside the ids: the batch's own inputs, explicit positions, the cache (None: none)."""
    helper: Any = model
    kwargs: dict[str, Any] = {name: value for name, value in inputs.items() if name != "input_ids"}
    kwargs["position_ids"] = helper._prepare_position_ids_for_generation(inputs["input_ids"], kwargs)
    kwargs["use_cache"] = cache is not None
    return kwargs if cache is None else kwargs | {"past_key_values": cache}


def prompt_inputs(model: PreTrainedModel, inputs: Mapping[str, Tensor], cache: Cache | None) -> dict[str, Any]:
    """Keyword arguments of the prompt pass over a left-padded batch, filling the cache given."""
    helper: Any = model
    return helper.prepare_inputs_for_generation(inputs["input_ids"], is_first_iteration=True, **prompt_kwargs(model, inputs, cache))


class Feed:
    """Keyword arguments of each forward of one batch: the prompt pass, then cached steps. Logits of the last position only."""

    def __init__(self, model: PreTrainedModel, batch: Encoded, *, cached: bool) -> None:
        self.model: Any = model
        self.ids = batch.input_ids
        cache = DynamicCache(config=model.config.get_text_config()) if cached else None
        self.kwargs = prompt_kwargs(model, batch.inputs, cache) | {"logits_to_keep": 1}

    def prompt(self) -> dict[str, Any]:
        """Inputs of the prompt pass."""
        return self.model.prepare_inputs_for_generation(self.ids, is_first_iteration=True, **self.kwargs)

    def step(self, column: Tensor) -> dict[str, Any]:
        """Inputs of the pass that consumes column [batch, 1]; needs the cache."""
        self.kwargs = self.model._update_model_kwargs_for_generation({}, self.kwargs)
        self.ids = torch.cat([self.ids, column], 1)
        return self.model.prepare_inputs_for_generation(self.ids, next_sequence_length=1, **self.kwargs)


@contextmanager
def rope_state(model: PreTrainedModel) -> Iterator[None]:
    """Qwen-VL's helpers write `rope_deltas` onto the module, where they would shift a later decode by hand.

    On leaving, however that happens, the model is as it came: what its user had left there is put back.
    """
    inner: Any = model.base_model
    had = hasattr(inner, "rope_deltas")
    before = inner.rope_deltas if had else None
    try:
        yield
    finally:
        if had:
            inner.rope_deltas = before
