"""Fonts on this machine: which of them has a letter, in an order that is the same wherever the same fonts lie.

The DejaVu faces inside matplotlib come first, then the packages of the extra `fonts` (`pip install "safesteer-interp[fonts]"`), then
what the system has, by file name. A letter that none of them has must be refused or written out by whoever draws: never a box.
"""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from safesteer_interp.files import sha256_of

if TYPE_CHECKING:
    from matplotlib.ft2font import FT2Font

PACKAGES = ("manimgx_fonts", "manimgx_fonts_cjk")
"""Packages of fonts (Noto, SIL Open Font License), found without running their code."""
SHIPPED = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif")
_NOT_LETTERS = ("lastresort", "blank", "color", "colour")
"""File names of fonts that draw boxes or nothing for every letter, or bitmaps that cannot be scaled."""


@dataclass(frozen=True)
class Font:
    """A font file."""

    path: Path

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the file: two machines with one digest draw one picture."""
        return sha256_of(self.path)

    @cached_property
    def letters(self) -> frozenset[str]:
        """Every character it has a glyph for; none when the file cannot be read or not be scaled."""
        face = _open(self.path)
        return frozenset(map(chr, face.get_charmap())) if face is not None and face.scalable else frozenset()

    def has(self, text: Iterable[str]) -> bool:
        """True when it has every character of a text."""
        return self.letters.issuperset(text)


def _open(path: Path) -> FT2Font | None:
    from matplotlib.ft2font import FT2Font

    try:
        return FT2Font(str(path))
    except (OSError, RuntimeError):
        return None


@cache
def shipped(name: str) -> Font:
    """A face of matplotlib's own, by file name without ending."""
    import matplotlib as mpl

    return Font(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf")


@cache
def fallbacks() -> tuple[Font, ...]:
    """Every font to look a letter up in, in order."""
    from matplotlib.font_manager import findSystemFonts

    packaged = [path for folder in map(_folder_of, PACKAGES) if folder is not None for path in sorted(folder.rglob("*.[to]t[fc]"))]
    system = sorted(map(Path, findSystemFonts()), key=lambda path: (path.name, str(path)))
    upright = [path for path in [*packaged, *system] if not any(word in path.name.lower() for word in (*_NOT_LETTERS, "italic", "oblique"))]
    return (*map(shipped, SHIPPED), *map(Font, upright))


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return Path(places[0]) if places else None


@lru_cache(maxsize=1 << 16)
def font_with(text: str) -> Font | None:
    """The first font that has every character of a text, or None."""
    return next((font for font in fallbacks() if font.has(text)), None)


def named(letter: str) -> str:
    """A character for a sentence: 'U+0950 DEVANAGARI OM'."""
    return f"U+{ord(letter):04X} {unicodedata.name(letter, 'without a name')}"
