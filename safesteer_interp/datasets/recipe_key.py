"""The key of a picture that is drawn, not read."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from PIL import features

RENDERER_VERSION = 1
"""Raised whenever a change here, in `pictures` or in their data moves a pixel; part of every image's key."""


def recipe_key(kind: str, recipe: dict[str, Any]) -> str:
    """Hex digest of a recipe, the renderer's version and FreeType's: equal keys mean equal pixels."""
    whole = {"kind": kind, "renderer": RENDERER_VERSION, "freetype": features.version("freetype2"), **recipe}
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
