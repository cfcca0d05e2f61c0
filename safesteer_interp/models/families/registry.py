"""FAMILIES: every supported architecture family by name, with its layout and its tiny model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from safesteer_interp.models.families.building import Built
from safesteer_interp.models.families.layouts import ENTRIES
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.mllm import MLLM


@dataclass(frozen=True)
class Family:
    """One family. It answers for the fields of its layout too: `family.vision_tower` is `family.layout.vision_tower`."""

    layout: Layout
    tiny: Callable[[], MLLM]
    """Builds a tiny random model with a real processor from configs alone (no hub): the model of every parity test."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for these before `layout` is there
            raise AttributeError(name)
        return getattr(self.layout, name)


def _tiny(layout: Layout, build: Callable[[], Built]) -> MLLM:
    """The MLLM named "tiny:<family>". It is not checked: the tests check it, and `load_model` does."""
    model, processor = build()
    return MLLM.of(model, processor, name=f"tiny:{layout.family}", layout=layout, source="built in code, random weights", check=False)


FAMILIES: dict[str, Family] = {layout.family: Family(layout, partial(_tiny, layout, build)) for layout, build in ENTRIES}
"""Family name -> entry. Every parity test runs over all of them through `tiny()`."""
