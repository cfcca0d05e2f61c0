"""Adapters of peft: attached when asked for, and merged into the weights they adapt."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from safesteer_interp.environment import has
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.checkpoint import ADAPTER, refuse_pointers

WEIGHTS = "adapter_model.safetensors"
_ERRORS = (OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, ImportError, UserWarning)
IGNORE: dict[str, Any] = {"adapter_kwargs": {"subfolder": ".no adapter"}}
"""Options of from_pretrained that make it look for an adapter where there is none: by itself it would attach, unsaid, one that was
left in the folder of a model, on top of weights into which it has often been merged already."""


def adapter_files(folder: Path) -> list[Path]:
    """Weights and settings of an adapter: what it adds to a fingerprint. Raises InputError when one is missing."""
    refuse_pointers(folder)
    files = [folder / ADAPTER, folder / WEIGHTS]
    for path in files:
        if not path.is_file():
            raise InputError(f"the adapter in {folder} has no {path.name}; give the folder that peft's save_pretrained wrote.")
    return files


def merged(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with an adapter merged into its weights, a plain transformers model again.

    Raises UsageError when peft is not installed, InputError when a file of the adapter is missing, or it does not
    fit the model.
    """
    if not has("peft"):
        raise UsageError("an adapter needs the package peft; install it with `pip install peft`.")
    adapter_files(folder)  # peft would ask the hub for what is missing
    from peft import PeftModel

    adapter_files(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")  # peft would go on with an adapter that adds nothing
            wrapped = PeftModel.from_pretrained(model, folder)
        plain: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    except _ERRORS as cause:
        reason = " ".join(str(cause).split())[:200]
        raise InputError(f"the adapter in {folder} cannot be merged into the model ({reason}); is it of this model?") from None
    return plain
