"""The key of a picture that is drawn, not read."""

from __future__ import annotations

from typing import Any

from PIL import features

from safesteer_interp.files import digest

RENDERER_VERSION = 1
"""Raised whenever a change here, in `pictures` or in their data moves a pixel; part of every image's key."""


def recipe_key(kind: str, recipe: dict[str, Any]) -> str:
    """Hex digest of a recipe, the renderer's version and FreeType's: equal keys mean equal pixels."""
    whole = {"kind": kind, "renderer": RENDERER_VERSION, "freetype": features.version("freetype2"), **recipe}
    return digest(whole)
