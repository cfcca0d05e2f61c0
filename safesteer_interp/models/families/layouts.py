"""Which layout serves which model: the list of the families' entries, and the look-up by a transformers config."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from safesteer_interp.errors import InputError, nearest
from safesteer_interp.models.families import gemma3, idefics3, llava, paligemma, qwen2_5_vl, qwen3_vl, text
from safesteer_interp.models.families.building import Built
from safesteer_interp.models.layout import Layout

ENTRIES: tuple[tuple[Layout, Callable[[], Built]], ...] = (
    (llava.LAYOUT, llava.tiny),
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


def layout_for(config: Any) -> Layout:
    """The entry that serves a transformers config. Raises InputError naming the model type, the nearest one and how to add an entry."""
    kind = getattr(config, "model_type", None) or "unknown"
    for layout, _ in ENTRIES:
        if kind in layout.model_types and (layout.serves is None or layout.serves(config)):
            return layout
    # the entry to copy: the most similar name among the families of its kind (with or without a vision tower)
    sees = getattr(config, "vision_config", None) is not None
    known = {name: layout for layout, _ in ENTRIES for name in layout.model_types if (layout.vision_tower is not None) == sees}
    model = nearest(kind, known)
    raise InputError(
        f'model type "{kind}" has no layout entry; the nearest supported one is "{model}". To add it, write one file with a Layout '
        "(paths of the decoder layers, final norm, head, vision tower) and a tiny() builder in safesteer_interp/models/families, "
        f'as that of the family "{known[model].family}", and list it in layouts.py there.'
    )
