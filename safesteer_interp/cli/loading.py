"""Flags of every command that loads a model: where its weights go, in which form, and what of the checkpoint may run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

from safesteer_interp.cli.words import switched

if TYPE_CHECKING:
    from safesteer_interp.models.mllm import MLLM


@dataclass(frozen=True)
class Loading:
    """How the model is loaded."""

    device: str = "cpu"
    """Where the model runs, e.g. "cuda"; not used with --device-map."""
    dtype: str = "float32"
    """Weights and states: float32, bfloat16, float16, or auto (bfloat16 where the processor multiplies it, which is faster)."""
    device_map: str | None = None
    """Spread the weights over several devices, memory and disk: auto, balanced, sequential, or a JSON object or file {"module": device}."""
    max_memory: str | None = None
    """What --device-map may use, e.g. 0=20GiB,1=20GiB,cpu=60GiB."""
    offload: Path | None = None
    """Folder for weights that --device-map puts on disk."""
    quant: Literal["4bit", "8bit", "int4", "int8"] | None = None
    """Pack the weights while loading: 4bit and 8bit by bitsandbytes, int4 and int8 by torchao (extra: quant)."""
    attn: str | None = None
    """Attention kernel, as transformers calls it (sdpa, eager, flash_attention_2); default: its choice."""
    max_pixels: int | None = None
    """Shrink larger images to this many pixels, and so to fewer tokens, where the processor can (Qwen-VL, Idefics3, SmolVLM)."""
    adapter: str | None = None
    """Folder or hub id of a peft adapter to merge into the weights."""
    trust_remote_code: bool = False
    """Let code that comes with the checkpoint run. Only for checkpoints you trust."""
    revision: str | None = None
    """Hub revision (commit) of the model."""
    thinking: Literal["on", "off"] | None = None
    """Whether a reasoning model is asked to think first, where its chat template has the switch; default: as the template does."""

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `load_model`, and of the runner's settings."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["attn_implementation"] = found.pop("attn")
        return {**found, "thinking": switched(self.thinking)}

    def load(self, name: str) -> MLLM:
        """The model. Raises as `load_model` does."""
        from safesteer_interp.models import load_model

        return load_model(name, **self.arguments())


LoadingFlags = Annotated[Loading, OmitArgPrefixes]
"""The flags without a prefix: --device, not --loading.device."""
