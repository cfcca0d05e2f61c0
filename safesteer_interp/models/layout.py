"""Layout: where the parts of one architecture family live, as data. One entry per family; adding a family is adding one entry.

Entries live in `safesteer_interp/models/families/`, one file a family, and are found by `config.model_type`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from safesteer_interp.errors import InputError


@dataclass(frozen=True)
class Stated:
    """Names of the settings that a checkpoint's files state."""

    of_processor: frozenset[str]
    of_images: frozenset[str]


@dataclass(frozen=True)
class Fact:
    """A setting of a processor that follows from the model's config."""

    field: str
    value: Callable[[Any], Any]
    """config -> the value."""
    of_images: bool = False
    """Whether it is a setting of the image processor rather than of the processor."""
    then: Callable[[Any], None] | None = None
    """What the processor had worked out of the setting when it was made, and must work out again."""

    def supply(self, config: Any, processor: Any, stated: Stated | None) -> None:
        """Set it, unless the checkpoint's own files state it (`stated` None: unless it has a value)."""
        holder = processor.image_processor if self.of_images else processor
        if stated is not None:
            known = self.field in (stated.of_images if self.of_images else stated.of_processor)
        else:
            known = getattr(holder, self.field, None) is not None
        if not known:
            setattr(holder, self.field, self.value(config))
            if self.then is not None:
                self.then(holder)


@dataclass(frozen=True)
class Layout:
    """Dotted module paths of one family, as transformers names them, and what decoding needs to know about it."""

    family: str
    """Short name, e.g. "llava"."""
    model_types: tuple[str, ...]
    """Values of `config.model_type` this entry serves."""
    layers: str
    """Path of the decoder's ModuleList, e.g. "model.language_model.layers"."""
    final_norm: str
    lm_head: str
    embed_tokens: str
    attention: str = "self_attn"
    """Name of the attention block inside a decoder layer (it returns a tuple; element 0 is the output)."""
    mlp: str = "mlp"
    vision_tower: str | None = None
    """None for text-only decoders."""
    projector: str | None = None
    attn_adds: str | None = None
    """Submodule whose output is what attention adds to the residual stream, when it is not `attention` itself (Gemma's post-norm)."""
    mlp_adds: str | None = None
    image_token: Callable[[Any, Any], int] | None = None
    """(config, processor) -> id of the placeholder that image features replace."""
    mrope: bool = False
    """Qwen-VL: position ids are [4, batch, tokens] and `rope_deltas` is state on the module."""
    sliding: bool = False
    """Some layers attend to a window only (Gemma 3)."""
    causal: bool = True
    """No token of a prompt attends to a later one (PaliGemma's do)."""
    bridge: bool = True
    """Whether TransformerLens 4.3 has an adapter for it (PaliGemma has none)."""
    serves: Callable[[Any], bool] | None = field(default=None, compare=False)
    """config -> whether this entry fits, when two entries share a model type (PaliGemma 1 and 2)."""
    template: str | None = None
    """Chat template (Jinja) used when the checkpoint brings none."""
    placeholder: str | None = None
    """What stands for an image in a prompt, for chat templates that want one string instead of a list of parts."""
    around_text: Callable[[Any], tuple[str, str]] | None = field(default=None, compare=False)
    """tokenizer -> what the processor itself writes before the text and at the end of the prompt (PaliGemma: "<bos>", a newline)."""
    token_types: str | None = None
    """Name of the per-token input that marks image tokens, when the model wants it for text-only rows too."""
    processor_class: Callable[[], type] | None = field(default=None, compare=False)
    """Processor to load instead of transformers' own where a package that its video half needs is missing."""
    video_needs: tuple[str, ...] = ("torchvision",)
    """Packages without which transformers' own processor does not load."""
    image_size: Literal["fixed", "area", "edge"] = "fixed"
    """What its image processor's `size.longest_edge` bounds: nothing (every image becomes one size), an area, or an edge."""
    facts: tuple[Fact, ...] = ()
    """Settings that processors saved by older tools leave out, and that the model's config knows."""


def submodule(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path. Raises InputError naming the first part that does not exist."""
    module = model
    for part in path.split("."):
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            names = ", ".join(name for name, _ in module.named_children()) or "none"
            raise InputError(
                f'layout path "{path}": {type(module).__name__} has no submodule "{part}" (it has: {names}); correct the family entry.'
            )
        module = child
    return module
