"""The letters of a figure: each is drawn by a font that has it, or written out as its code, never as a box.

A figure whose texts are all in the style sheet's fonts is left alone, so that its bytes do not depend on what is installed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, Formatter, LogFormatter

from safesteer_interp.fonts import Font, font_with, shipped

MOST_TICKS = 64
"""Ticks of a logarithmic axis, more than any figure has."""


def let_powers_be_formulas(figure: Figure) -> None:
    """Tells the ticks of logarithmic axes, which matplotlib labels by formulas ("10²"), to parse them; the style sheet parses none."""
    for axis in _axes_of(figure):
        if isinstance(axis.get_major_formatter(), LogFormatter):
            for tick in axis.get_major_ticks(MOST_TICKS):
                for label in (tick.label1, tick.label2):
                    label.set_parse_math(True)


def find_letters(figure: Figure) -> None:
    """Gives every text of a laid-out figure the fonts for its letters, and spells out letters that no font has."""
    for axis in _axes_of(figure):
        formatter = axis.get_major_formatter()
        labels = [tick.label1.get_text() for tick in axis.get_major_ticks()]
        if isinstance(formatter, FixedFormatter):
            labels += formatter.seq
        if any(spelled(label) != label for label in labels):
            axis.set_major_formatter(_Spelling(formatter))
    for text in figure.findobj(Text):
        if isinstance(text, Text) and not _simple(text.get_text()):
            _give_fonts(text)


def spelled(text: str) -> str:
    """The text with every letter that no font has written as its code, e.g. "[1F35E]"."""
    return text if _simple(text) else "".join(c if c == "\n" or font_with(c) else f"[{ord(c):04X}]" for c in text)


@contextmanager
def quietly() -> Iterator[None]:
    """Without matplotlib's remarks that a fallback font has no such weight."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _simple(text: str) -> bool:
    """True for letters that every font has."""
    return text.isascii() and text.replace("\n", "").isprintable()


def _give_fonts(text: Text) -> None:
    shown = spelled(text.get_text())
    if shown != text.get_text():
        text.set_text(shown)
    own = Font(Path(findfont(text.get_fontproperties())))
    missing = {c for c in shown if c != "\n" and c not in own.letters}
    if not missing:
        return
    fonts = {font.path: font for c in sorted(missing) if (font := font_with(c)) is not None}
    text.set_fontfamily([*text.get_fontfamily(), *(_family(font) for font in fonts.values())])


def _family(font: Font) -> str:
    """The family matplotlib knows a font file by, once it has been told of it."""
    if font.path.parent != shipped("DejaVuSans").path.parent and all(Path(entry.fname) != font.path for entry in fontManager.ttflist):
        fontManager.addfont(str(font.path))
    return next(
        (entry.name for entry in fontManager.ttflist if Path(entry.fname) == font.path), FontProperties(fname=str(font.path)).get_name()
    )


def _axes_of(figure: Figure) -> list[Axis]:
    return [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]


class _Spelling(Formatter):
    """Another formatter's labels, spelled out."""

    def __init__(self, inner: Formatter) -> None:
        self.inner = inner

    def __call__(self, x: float, pos: int | None = None) -> str:
        return spelled(self.inner(x, pos))

    def format_ticks(self, values: Any) -> list[str]:
        return [spelled(label) for label in self.inner.format_ticks(values)]

    def set_locs(self, locs: Any) -> None:
        self.inner.set_locs(locs)

    def get_offset(self) -> str:
        return self.inner.get_offset()

    def set_axis(self, axis: Any) -> None:
        super().set_axis(axis)
        self.inner.set_axis(axis)
