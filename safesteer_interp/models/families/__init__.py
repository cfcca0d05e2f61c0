"""The supported architecture families. To add one: write a file with a `Layout` and a `tiny()` builder, and list it in `layouts.py`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safesteer_interp.models.families.layouts import layout_for
    from safesteer_interp.models.families.registry import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "layout_for"]
_HOMES = {"FAMILIES": "registry", "Family": "registry", "layout_for": "layouts"}


def __getattr__(name: str) -> Any:
    """Import on first use: the layouts lie below `MLLM`, the tiny models above it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
