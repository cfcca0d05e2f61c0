"""The supported architecture families. To add one: write a file with a `Layout` and a `tiny()` builder, and list it here."""

from __future__ import annotations

from typing import Any

from safesteer_interp.errors import InputError, did_you_mean
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
    known = {name for layout in FAMILIES.values() for name in layout.model_types}
    raise InputError(
        f'model type "{kind}" has no layout entry.{did_you_mean(kind, known)} To add it, write one file with a Layout '
        "(paths of the decoder layers, final norm, head, vision tower) in safesteer_interp/models/families and list it in its __init__.py."
    )
