"""Models: names, folders and hub ids in; an MLLM with a checked layout out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safesteer_interp.models.encoding import Encoded, PromptEncoder
    from safesteer_interp.models.loading import available_models, load_model
    from safesteer_interp.models.mllm import MLLM

__all__ = ["MLLM", "Encoded", "PromptEncoder", "available_models", "load_model"]
_HOMES = {"MLLM": "mllm", "Encoded": "encoding", "PromptEncoder": "encoding", "load_model": "loading", "available_models": "loading"}


def __getattr__(name: str) -> Any:
    """Import on first use: torch and transformers take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
