"""Anatomy: an untouched transformers model with its processor, and names for the parts that the suite reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from safesteer_interp.models.context_length import warn_beyond_context
from safesteer_interp.models.encoding import Encoded, PromptEncoder
from safesteer_interp.models.layout import Layout, submodule
from safesteer_interp.models.tower_layers import vision_layers
from safesteer_interp.requests import Request


@dataclass
class Anatomy:
    """A model whose parts can be named. Whether the names are right is for `checks.check_layout` to say; `MLLM` is one that was checked."""

    name: str
    """"mini", "planted", a hub id or the folder's name; stamped on figures."""
    model: PreTrainedModel
    processor: Any
    """The family's processor, or the tokenizer for text-only decoders. Pads left."""
    layout: Layout
    system_prompt: str | None = field(default=None, kw_only=True)
    """Default system turn; None leaves the template's own default."""
    thinking: bool | None = field(default=None, kw_only=True)
    """Whether a reasoning model's template asks it to think first; None leaves the template's own default."""
    _encoder: PromptEncoder | None = field(default=None, init=False, repr=False, compare=False)

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
    def n_vision_layers(self) -> int:
        """Layers of the vision tower; 0 for a text-only decoder, and where none are found."""
        return len(vision_layers(self.model, self.layout))

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
        """Where its inputs go. Weights that wait on disk have no device of their own; accelerate's hook knows where they are used."""
        own = self.model.device
        used = getattr(getattr(self.model, "_hf_hook", None), "execution_device", None)
        return torch.device("cpu" if used is None else used) if own.type == "meta" else own  # without any weights: as they are sent

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def takes_images(self) -> bool:
        return self.layout.vision_tower is not None

    @property
    def image_token(self) -> int | None:
        """Id of the placeholder that image features replace; None for text-only decoders."""
        return self.layout.image_token(self.model.config, self.processor) if self.layout.image_token else None

    @property
    def encoder(self) -> PromptEncoder:
        """What turns requests into batches. Kept, with all it has learnt, until the model moves or its system prompt changes."""
        now = PromptEncoder(
            name=self.name,
            tokenizer=self.tokenizer,
            processor=self.processor,
            layout=self.layout,
            image_token=self.image_token,
            vocabulary=embedding_rows(self.model),
            system_prompt=self.system_prompt,
            thinking=self.thinking,
            device=self.device,
            dtype=self.dtype,
        )
        if self._encoder != now:
            self._encoder = now
        assert self._encoder is not None
        return self._encoder

    def encode(self, requests: Sequence[Request], *, pad_to: int | None = None) -> Encoded:
        """Chat-templated, left-padded batch with roles. Requests with and without image may be mixed.

        Raises BadRequestError (an InputError) naming the request that cannot be encoded: see `PromptEncoder`. A prompt
        that is longer than the model's context is warned of.
        """
        batch = self.encoder.encode(requests, pad_to=pad_to)
        warn_beyond_context(self.model, self.name, batch.requests, batch.attention_mask.sum(1).tolist())
        return batch


def embedding_rows(model: PreTrainedModel) -> int:
    """How many token ids the model's input embedding knows."""
    embedding = model.get_input_embeddings()
    return int(getattr(embedding, "num_embeddings", None) or embedding.weight.shape[0])
