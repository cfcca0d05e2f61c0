"""Which layout serves which model: the list of the families' entries, and the look-up by a transformers config."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from safesteer_interp.errors import InputError, nearest
from safesteer_interp.models.families import (
    gemma3,
    glm4v,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    paligemma,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_vl,
    text,
)
from safesteer_interp.models.families.building import Built
from safesteer_interp.models.layout import Layout

ENTRIES: tuple[tuple[Layout, Callable[[], Built]], ...] = (
    (llava.LAYOUT, llava.tiny),
    (llava_next.LAYOUT, llava_next.tiny),
    (llava_onevision.LAYOUT, llava_onevision.tiny),
    (internvl.LAYOUT, internvl.tiny),
    (glm4v.LAYOUT, glm4v.tiny),
    (qwen2_vl.LAYOUT, qwen2_vl.tiny),
    (qwen2_5_vl.LAYOUT, qwen2_5_vl.tiny),
    (qwen3_vl.LAYOUT, qwen3_vl.tiny),
    (gemma3.LAYOUT, gemma3.tiny),
    (idefics3.LAYOUT, idefics3.tiny),
    (idefics3.SMOLVLM, idefics3.tiny_smolvlm),
    (paligemma.LAYOUT, paligemma.tiny),
    (paligemma.LAYOUT_2, paligemma.tiny2),
    *((layout, partial(text.tiny, family)) for family, layout in text.LAYOUTS.items()),
)
"""Every family's layout with the builder of its tiny model. A new family is one file and one line here."""


OTHERWISE = {
    "mllama": "its images reach the decoder through cross-attention layers and have no tokens there, so no site or role of this suite "
    "means the same on it",
    **dict.fromkeys(
        ("gemma4", "gemma4_text"),
        "its layers scale the whole residual stream and mix in inputs of their own, so that what attention and MLP add does not sum to it",
    ),
    "blip-2": "its query tokens stand before the prompt and are no placeholders in it",
    "instructblip": "its query tokens stand before the prompt and are no placeholders in it",
}
"""Model types that do not fit the contract, and why."""


def layout_for(config: Any) -> Layout:
    """The entry that serves a transformers config. Raises InputError naming the model type, the nearest one and how to add an entry."""
    kind = getattr(config, "model_type", None) or "unknown"
    for layout, _ in ENTRIES:
        if kind in layout.model_types and (layout.serves is None or layout.serves(config)):
            return layout
    if kind in OTHERWISE:
        raise InputError(f'model type "{kind}" is not supported: {OTHERWISE[kind]}. `safesteer list models` shows what is.')
    # the entry to copy: the most similar name among the families of its kind (with or without a vision tower)
    sees = getattr(config, "vision_config", None) is not None
    known = {name: layout for layout, _ in ENTRIES for name in layout.model_types if (layout.vision_tower is not None) == sees}
    model = nearest(kind, known)
    raise InputError(
        f'model type "{kind}" has no layout entry; the nearest supported one is "{model}". To add it, write one file with a Layout '
        "(paths of the decoder layers, final norm, head, vision tower) and a tiny() builder in safesteer_interp/models/families, "
        f'as that of the family "{known[model].family}", and list it in layouts.py there.'
    )
