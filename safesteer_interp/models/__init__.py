"""Models: names, folders and hub ids in; an MLLM with a checked layout out.

- `load_model`: a model by name, folder or hub id
- `available_models`: the names that need no download
- `MLLM`: a model with its processor and layout; `MLLM.of` for one that is loaded already
- `Encoded`: a batch as the model consumes it, each token with its role
- `PromptEncoder`: makes one of requests
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.environment import require_sound_torchvision
from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.models.encoding import Encoded, PromptEncoder
    from safesteer_interp.models.loading import available_models, load_model
    from safesteer_interp.models.mllm import MLLM

require_sound_torchvision()  # before anything of transformers is imported below

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "loading": ("load_model", "available_models"),
        "mllm": ("MLLM",),
        "encoding": ("Encoded", "PromptEncoder"),
    },
)
