"""Where the words of a picture are: known of what is drawn here, read by an OCR engine (`rapidocr`, extra `ocr`) of anything else."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool

from safesteer_interp.datasets.rendering import StackedImage, TypographyImage, typography
from safesteer_interp.errors import InputError
from safesteer_interp.requests import ImageSource

ENLARGED = 2
"""Times that a picture is enlarged before it is read: letters of 13 pixels are at the edge of what the engine reads."""


@dataclass(frozen=True)
class WordBox:
    """One word of a picture, without punctuation and in small letters, and its box in pixels."""

    word: str
    x0: float
    x1: float
    y0: float
    y1: float


def available() -> bool:
    """Whether the OCR engine is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("rapidocr", "onnxruntime"))


def engine() -> Any:
    """The OCR engine, loaded once. Raises InputError where it is not installed."""
    if not available():
        raise InputError("reading pictures needs rapidocr; install it with `pip install 'safesteer-interp[ocr]'`.")
    return _loaded()


@cache
def _loaded() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR()


def read_words(image: np.ndarray) -> tuple[WordBox, ...]:
    """The words that the OCR engine finds in an image [height, width, 3], with their boxes. Raises as `engine` does."""
    large = np.asarray(image).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
    lines = engine()(large, return_word_box=True).word_results or ()
    found = []
    for text, _, corners in (word for line in lines for word in line):
        if corners is not None and (word := _plain(text)):
            points = np.asarray(corners, dtype=float) / ENLARGED
            found.append(WordBox(word, *_ends(points[:, 0]), *_ends(points[:, 1])))
    return tuple(found)


def drawn_words(source: ImageSource | None) -> tuple[WordBox, ...] | None:
    """The words of a picture that is drawn here, exactly; None for any other picture."""
    if isinstance(source, StackedImage):
        below = drawn_words(source.bottom)
        down = source.top.load().height
        return None if below is None else tuple(WordBox(b.word, b.x0, b.x1, b.y0 + down, b.y1 + down) for b in below)
    if not isinstance(source, TypographyImage):
        return None
    drawn = typography(**asdict(source))
    words: list[list[Any]] = []
    for box in drawn.boxes:
        if not words or box.index != words[-1][-1].index + 1 or box.y0 != words[-1][-1].y0:
            words.append([])
        words[-1].append(box)
    named = [(_plain("".join(b.character for b in boxes)), boxes) for boxes in words]
    return tuple(WordBox(word, boxes[0].x0, boxes[-1].x1, boxes[0].y0, boxes[0].y1) for word, boxes in named if word)


def words_of(source: ImageSource | None) -> tuple[tuple[WordBox, ...], str] | None:
    """The words of a picture and whence they are known ("drawn" or "ocr"); None where it is not drawn here and nothing can read it."""
    drawn = drawn_words(source)
    if drawn is not None:
        return drawn, "drawn"
    if source is None or not available():
        return None
    return read_words(np.asarray(source.load().convert("RGB"))), "ocr"


def own_words(words: Sequence[WordBox], twin: Sequence[WordBox]) -> tuple[WordBox, ...]:
    """The words that the twin's picture does not have."""
    others = {box.word for box in twin}
    return tuple(box for box in words if box.word not in others)


def pixels_of(words: Iterable[WordBox], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Where in a picture of this size the words are."""
    where = np.zeros((height, width), dtype=bool)
    for box in words:
        where[max(0, int(box.y0)) : int(np.ceil(box.y1)), max(0, int(box.x0)) : int(np.ceil(box.x1))] = True
    return where


def _plain(text: str) -> str:
    return "".join(c for c in text.casefold() if c.isalnum())


def _ends(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())
