"""MLLM: an untouched transformers model with its processor and layout, and the batch it consumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from safesteer_interp.models.layout import Layout, submodule
from safesteer_interp.requests import Request
from safesteer_interp.types import Ids, Mask, Roles


@dataclass
class Encoded:
    """A left-padded batch, ready for `model(**batch.inputs)`; roles say what each token is."""

    requests: tuple[Request, ...]
    inputs: dict[str, Tensor]
    """input_ids and attention_mask [batch, sequence], and whatever else the family wants (pixel_values, image_grid_thw, ...)."""
    roles: Roles
    """[batch, sequence] int8 values of sites.Role; PAD where attention_mask is 0."""

    @property
    def input_ids(self) -> Ids:
        return self.inputs["input_ids"]

    @property
    def attention_mask(self) -> Mask:
        return self.inputs["attention_mask"]

    def to(self, device: torch.device | str) -> Encoded:
        """The same batch on another device."""
        return Encoded(self.requests, {k: v.to(device) for k, v in self.inputs.items()}, self.roles.to(device))


@dataclass
class MLLM:
    """What `load_model` returns. The transformers model is never modified; hooks live in context managers."""

    name: str
    """"mini", "planted", a hub id or the folder's name; stamped on figures."""
    model: PreTrainedModel
    processor: Any
    """The family's processor, or the tokenizer for text-only decoders. Pads left."""
    layout: Layout
    fingerprint: str
    """SHA-256 over the weights, the config, the processor's files and the chat template: enters every trace key."""
    source: str = ""
    """Where it was loaded from (folder, hub id and revision)."""
    system_prompt: str | None = None
    """Default system turn; None leaves the template's own default."""
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        return getattr(self.processor, "tokenizer", self.processor)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers, in order."""
        return list(submodule(self.model, self.layout.layers).children())

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def final_norm(self) -> nn.Module:
        return submodule(self.model, self.layout.final_norm)

    @property
    def lm_head(self) -> nn.Module:
        return submodule(self.model, self.layout.lm_head)

    @property
    def width(self) -> int:
        """Width d of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def known_answer(self) -> bool:
        """True for a model whose right answers are planted: it proves machinery, and nothing found on it is a finding."""
        return "planted" in self.extras

    @property
    def takes_images(self) -> bool:
        return self.layout.vision_tower is not None

    def encode(self, requests: Sequence[Request], *, pad_to: int | None = None) -> Encoded:
        """Chat-templated, left-padded batch with roles. Requests with and without image may be mixed.

        Raises InputError when a request has an image and the model takes none.
        """
        from safesteer_interp.models.encoding import encode

        return encode(self, requests, pad_to=pad_to)
