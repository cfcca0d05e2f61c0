"""MLLM: a model that was checked and fingerprinted, however it came into memory."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from safesteer_interp.datasets.dataset import USUAL
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.anatomy import Anatomy
from safesteer_interp.models.checks import check_layout
from safesteer_interp.models.encoding import Encoded
from safesteer_interp.models.families.layouts import layout_for
from safesteer_interp.models.fingerprint import fingerprint as fingerprint_of
from safesteer_interp.models.fingerprint import given_fingerprint
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.special_tokens import set_padding

__all__ = ["MLLM", "Encoded"]


@dataclass
class MLLM(Anatomy):
    """What `load_model` and `MLLM.of` return. The transformers model is never modified; hooks live in context managers."""

    fingerprint: str
    """SHA-256 over the weights, the config, the processor's files and the chat template: enters every trace key."""
    source: str = ""
    """Where it was loaded from (folder, hub id and revision)."""
    loaded: dict[str, Any] = field(default_factory=dict)
    """How it was loaded where that is not the usual way (device map, packed weights, cap on pixels): kept in provenance."""
    known_answer: bool = False
    """True for a model whose right answers are planted: it proves machinery, and nothing found on it is a finding."""
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    """Held by whoever runs the transformers model with hooks or state of its own on it; shared by copies that share the model."""
    tracers: dict[tuple[str, bool | str], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Tracers built for this model, kept because two of them copy the module tree (`tracing.load_tracer`)."""
    prompts: Any = field(default=None, init=False, repr=False, compare=False)
    """Prompts it has read, while a block of `decoding.remembering_prompts` is open."""

    @property
    def usual_dataset(self) -> str:
        """The data set that is meant where none is named: the closed world of a model with known answers, else the bundled benchmark."""
        return self.name if self.known_answer else USUAL

    @classmethod
    def of(
        cls,
        model: nn.Module,
        processor: Any,
        *,
        name: str | None = None,
        layout: Layout | None = None,
        system_prompt: str | None = None,
        thinking: bool | None = None,
        fingerprint: str | None = None,
        source: str = "in memory",
        check: bool = True,
    ) -> MLLM:
        """An already loaded transformers model: quantised, merged, wrapped by peft, placed on several devices, as it is.

        The model is put into eval mode, and the tokenizer pads on the left with a token that the model knows; nothing else is changed.

        Args:
            processor: what `AutoProcessor` gives; for text-only decoders the tokenizer.
            name: stamped on figures; by default the name the model was loaded by, else its class.
            layout: where its parts are; by default the entry of its `config.model_type`.
            system_prompt: default system turn; None leaves the template's own default.
            thinking: whether a reasoning model's template asks it to think first (`enable_thinking`); None leaves its own default.
            fingerprint: anything that changes whenever the model's numbers do, for weights that cannot be read (offloaded) and for
                functions that were patched, which the weights do not tell of. By default weights, config and processor are hashed.
            check: verify the layout by two short forwards (see `check_layout`).

        Raises InputError for an unsupported architecture, a processor that does not belong to it, or a wrong layout.
        """
        if not isinstance(model, PreTrainedModel) and callable(wrapped := getattr(model, "get_base_model", None)):
            model = wrapped()  # peft: the transformers model, its adapters in place
        if not isinstance(model, PreTrainedModel):
            raise UsageError(f"MLLM.of takes a transformers model, not {type(model).__name__}; pass what from_pretrained returned.")
        layout = layout or layout_for(model.config)
        name = name or str(getattr(model.config, "_name_or_path", "") or type(model).__name__).rstrip("/").rpartition("/")[2]
        if layout.vision_tower is not None and getattr(processor, "image_processor", None) is None:
            raise InputError(f"{name} takes images, but {type(processor).__name__} prepares none; pass what AutoProcessor loads for it.")
        set_padding(model, getattr(processor, "tokenizer", processor), name)
        mllm = cls(
            name=name,
            model=model.eval(),
            processor=processor,
            layout=layout,
            fingerprint=given_fingerprint(fingerprint) if fingerprint else fingerprint_of(model, processor),
            source=source,
            system_prompt=system_prompt,
            thinking=thinking,
        )
        if check:
            check_layout(mllm)
        return mllm

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        shape = f"{self.n_layers} layers of width {self.width}, {size / 1e6:,.1f} M parameters"
        return f"MLLM({self.name!r}, {self.layout.family}, {shape}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
