"""Prompts longer than the model's context: said, since the model was never trained to read so far and its states there mean little."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from transformers import PreTrainedModel

from safesteer_interp.errors import SafeSteerWarning
from safesteer_interp.requests import Request


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the model reads at most, by its config (`max_position_embeddings`); None where the config sets no limit."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else None


def warn_beyond_context(model: PreTrainedModel, name: str, requests: Sequence[Request], lengths: Sequence[int]) -> None:
    """Warns of each request whose prompt has more tokens (`lengths`) than the context; once, as Python's warnings do."""
    limit = context_length(model)
    for request, length in zip(requests, lengths, strict=True):
        if limit is not None and length > limit:
            warnings.warn(
                f'request "{request.id}" has {length:,} tokens, more than the {limit:,} of {name}\'s context; '
                "what the model makes of it means little: shorten the request or leave it out.",
                SafeSteerWarning,
                stacklevel=3,
            )
