"""The supported architecture families. To add one: write a file with a `Layout` and a `tiny()` builder, and list it here."""

from __future__ import annotations

from typing import Any

from safesteer_interp.errors import InputError, nearest
from safesteer_interp.models.families import gemma3, idefics3, llava, paligemma, qwen2_5_vl, qwen3_vl, text
from safesteer_interp.models.layout import Layout

FAMILIES: dict[str, Layout] = {
    layout.family: layout
    for layout in (
        llava.LAYOUT,
        qwen2_5_vl.LAYOUT,
        qwen3_vl.LAYOUT,
        gemma3.LAYOUT,
        idefics3.LAYOUT,
        idefics3.SMOLVLM,
        paligemma.LAYOUT,
        paligemma.LAYOUT_2,
        *text.LAYOUTS.values(),
    )
}
"""Family name -> entry. Every parity test runs over all of them through `tiny()`."""


def layout_for(config: Any) -> Layout:
    """The entry that serves a transformers config. Raises InputError naming the model type, the nearest one and how to add an entry."""
    kind = getattr(config, "model_type", None) or "unknown"
    for layout in FAMILIES.values():
        if kind in layout.model_types and (layout.serves is None or layout.serves(config)):
            return layout
    # the entry to copy: the most similar name among the families of its kind (with or without a vision tower)
    sees = getattr(config, "vision_config", None) is not None
    known = {name: layout for layout in FAMILIES.values() for name in layout.model_types if (layout.vision_tower is not None) == sees}
    model = nearest(kind, known)
    raise InputError(
        f'model type "{kind}" has no layout entry; the nearest supported one is "{model}". To add it, write one file with a Layout '
        "(paths of the decoder layers, final norm, head, vision tower) and a tiny() builder in safesteer_interp/models/families, "
        f'as that of the family "{known[model].family}", and list it in the __init__.py there.'
    )
