"""The eyes: what the states of a vision tower look like, and whose picture each part of them belongs to.

Towers differ in form. CLIP and SigLIP give [tiles, patches, width], Qwen's and GLM's [patches of all pictures, width], a convolutional
tower such as mini's [pictures, width, rows, columns]. Here all of them are [parts, tokens, width]; the parts of a picture lie together,
in the order of the batch.
"""

from __future__ import annotations

from math import prod
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.models.anatomy import Anatomy
from safesteer_interp.models.encoding import Encoded
from safesteer_interp.models.layout import submodule
from safesteer_interp.models.tower_layers import vision_layers
from safesteer_interp.sites import Site, SiteKind

Parts: TypeAlias = Float[Tensor, "parts tokens width"]


def last_layer_used(mllm: Anatomy) -> int:
    """The tower's last layer whose states reach the decoder (LLaVA takes the last but one). Raises InputError when none was found."""
    count = len(vision_layers(mllm.model, mllm.layout))
    if not count:
        raise InputError(f"no layers were found in the vision tower of {mllm.name}; only the site `projector` can be read.")
    chosen = getattr(mllm.model.config, "vision_feature_layer", None)
    if chosen is None or getattr(submodule(mllm.model, mllm.layout.vision_tower or ""), "layer_names", None):
        return count - 1
    states = [int(n) for n in (chosen if isinstance(chosen, (list, tuple)) else [chosen])]  # of all states, the embedded pixels first
    return max(max(n if n >= 0 else n + count + 1 for n in states) - 1, 0)


def as_parts(hidden: Tensor) -> Parts:
    """A state of the eyes as [parts, tokens, width], whatever the tower's form."""
    if hidden.ndim == 4:  # a convolution's maps
        return hidden.flatten(2).transpose(1, 2)
    return hidden[:, None] if hidden.ndim == 2 else hidden


def as_was(parts: Parts, hidden: Tensor) -> Tensor:
    """The inverse of `as_parts`: parts in the form of the state they were made of."""
    return parts.transpose(1, 2).reshape(hidden.shape) if hidden.ndim == 4 else parts.reshape(hidden.shape)


def class_tokens(mllm: Anatomy, site: Site) -> int:
    """Tokens at the start of each part that the model drops before its projector (CLIP's class token): no part of the picture."""
    return int(site.kind is SiteKind.VISION and getattr(mllm.model.config, "vision_feature_select_strategy", "full") == "default")


def rows_of_parts(mllm: Anatomy, batch: Encoded, count: int) -> Int[Tensor, " parts"]:
    """For each of `count` parts of a state of the eyes, the row of the batch whose picture it is part of.

    Raises InputError when the parts do not divide among the pictures.
    """
    pictured = [row for row, request in enumerate(batch.requests) if request.image is not None]
    whole = count == len(pictured) or len(pictured) == 1
    shares = [1] * len(pictured) if whole else [_share(mllm, batch, row) for row in pictured]
    total = sum(shares)
    if not total or any(count * share % total for share in shares):
        raise InputError(f"{mllm.name}: {count} states of its eyes cannot be told apart by picture; trace with a batch size of 1.")
    sizes = torch.tensor([count * share // total for share in shares])
    return torch.tensor(pictured).repeat_interleave(sizes)


def _share(mllm: Anatomy, batch: Encoded, row: int) -> int:
    """Tiles or patches of one row's picture, as its processor cuts it when it is alone."""
    shape = mllm.encode([batch.requests[row]]).inputs["pixel_values"].shape
    return int(prod(shape[:-3])) if len(shape) >= 4 else int(shape[0])
