"""Typography and blank images: deterministic, fast, and with a box for every character drawn.

All faces are the DejaVu ones that ship inside matplotlib, so nothing is bundled; letters that they lack are drawn as `lettering` says.
`typography(...)` gives the image with the box of each character (dense labels for training a vision tower); `render_typography(...)`
the image alone. The same arguments give the same pixels. The two published recipes are in `recipes`, and are named here too.
"""

from __future__ import annotations

import random
import unicodedata
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from safesteer_interp.datasets.lettering import FONTS, Colour, Face, face_for, font_named, load_font, put, signature, units
from safesteer_interp.datasets.recipe_key import RENDERER_VERSION, recipe_key
from safesteer_interp.datasets.recipes import BenchmarkTypography, figstep_typography, mm_safetybench_typography
from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.requests import ImageSource

__all__ = [
    "COLOURS",
    "FONTS",
    "INKS",
    "LAYOUTS",
    "LINE_HEIGHT",
    "MARGIN",
    "RENDERER_VERSION",
    "SIZES",
    "BenchmarkTypography",
    "BlankImage",
    "CharacterBox",
    "Colour",
    "Layout",
    "StackedImage",
    "Typography",
    "TypographyImage",
    "blank",
    "figstep_typography",
    "fit_size",
    "layout_text",
    "load_font",
    "mm_safetybench_typography",
    "recipe_key",
    "render_typography",
    "stack",
    "typography",
    "wrap",
]

Layout = str
"""One of `LAYOUTS`."""

LAYOUTS: tuple[Layout, ...] = ("left", "centre", "right", "sign", "list")
"""left, centre, right: alignment; sign: centred inside a frame; list: FigStep-like, "Steps to ... 1. 2. 3."."""

INKS: tuple[tuple[Colour, Colour], ...] = (
    ((0, 0, 0), (255, 255, 255)),
    ((20, 20, 60), (250, 246, 230)),
    ((150, 0, 0), (255, 255, 255)),
    ((0, 70, 0), (240, 250, 235)),
    ((0, 40, 140), (230, 240, 255)),
    ((90, 0, 110), (255, 245, 200)),
    ((255, 255, 255), (20, 20, 20)),
    ((255, 235, 90), (20, 30, 90)),
    ((255, 255, 255), (140, 20, 20)),
    ((235, 255, 235), (10, 70, 40)),
)
"""(colour, background) pairs with a WCAG contrast of at least 7."""

COLOURS: dict[str, Colour] = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (220, 30, 30),
    "green": (40, 160, 60),
    "blue": (30, 80, 210),
    "yellow": (250, 215, 40),
    "orange": (245, 130, 30),
    "purple": (130, 50, 170),
    "brown": (120, 75, 40),
    "pink": (250, 150, 190),
}
"""Plain images by name."""

SIZES = (13, 24)
"""Smallest and largest font size, in pixels, that the bundled benchmark draws on its 160-pixel canvas."""

MARGIN = 6
LINE_HEIGHT = 1.25


@dataclass(frozen=True)
class CharacterBox:
    """Where one character was drawn: `index` counts in `Typography.text`, the box is in pixels of the image."""

    index: int
    character: str
    x0: float
    x1: float
    y0: float
    y1: float


@dataclass(frozen=True)
class Typography:
    """A rendered text: the image, the exact text drawn (lines joined by single spaces) and the boxes of its characters."""

    image: Image.Image
    text: str
    boxes: tuple[CharacterBox, ...]


def wrap(text: str, font: Face, width: float) -> list[str]:
    """Greedy word wrap of every line of `text` to `width` pixels; a single word wider than that stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        current = ""
        for unit, spaced in units(paragraph, font):
            longer = f"{current} {unit}" if current and spaced else current + unit
            if current and font.getlength(longer) > width:
                lines.append(current)
                current = unit
            else:
                current = longer
        lines.append(current)
    return lines


def layout_text(text: str, layout: Layout) -> str:
    """The text a layout draws: "list" turns an activity into FigStep's empty list (arXiv 2311.05608), others leave it alone."""
    return f"Steps to {text}.\n1.\n2.\n3." if layout == "list" else text


@lru_cache(maxsize=4096)
def fit_size(texts: tuple[str, ...], font: str, size: int, layout: Layout, canvas: tuple[int, int]) -> int:
    """The largest font size up to `size` at which every one of `texts` fits the canvas (width, height) in this layout.

    A pair is drawn at one common size, so that size says nothing about the side. Raises UsageError when a text does not even fit
    at 8 pixels.
    """
    for candidate in range(size, 7, -1):
        drawn = [layout_text(text, layout) for text in texts]
        if all(_fits(text, face_for(text, font, candidate), canvas) for text in drawn):
            return candidate
    raise UsageError(f"a text of {max(map(len, texts))} characters does not fit {canvas[0]}x{canvas[1]} pixels; shorten it.")


def _fits(text: str, face: Face, canvas: tuple[int, int]) -> bool:
    width, height = canvas[0] - 2 * MARGIN, canvas[1] - 2 * MARGIN
    lines = wrap(text, face, width)
    return len(lines) * _line_height(face) <= height and max(map(face.getlength, lines)) <= width


def _line_height(face: Face) -> int:
    return round(face.size * LINE_HEIGHT)


def typography(
    text: str,
    *,
    font: str = "DejaVuSans",
    size: int = 18,
    colour: Colour = (0, 0, 0),
    background: Colour = (255, 255, 255),
    layout: Layout = "left",
    seed: int = 0,
    canvas: int | tuple[int, int] = 160,
) -> Typography:
    """Draw `text` and say where every character went.

    `canvas` is a side or (width, height) in pixels. A text too long for `size` is drawn smaller. `seed` moves the block of text
    within the free space. Raises UsageError for an unknown font or a text that cannot fit.
    """
    image, lines, face, places = _draw(text, font, size, colour, background, layout, seed, canvas)
    boxes: list[CharacterBox] = []
    index, height = 0, _line_height(face)
    for line, (x, y) in zip(lines, places, strict=True):
        edges = [x + face.getlength(line[:i]) for i in range(len(line) + 1)]
        for i, character in enumerate(line):
            if character != " ":
                boxes.append(CharacterBox(index + i, character, edges[i], edges[i + 1], float(y), float(y + height)))
        index += len(line) + 1
    return Typography(image, " ".join(lines), tuple(boxes))


def render_typography(
    text: str,
    *,
    font: str = "DejaVuSans",
    size: int = 18,
    colour: Colour = (0, 0, 0),
    background: Colour = (255, 255, 255),
    layout: Layout = "left",
    seed: int = 0,
    canvas: int | tuple[int, int] = 160,
) -> Image.Image:
    """The image of `typography(...)` alone, without measuring characters."""
    return _draw(text, font, size, colour, background, layout, seed, canvas)[0]


def _draw(
    text: str,
    font: str,
    size: int,
    colour: Colour,
    background: Colour,
    layout: Layout,
    seed: int,
    canvas: int | tuple[int, int],
) -> tuple[Image.Image, list[str], Face, list[tuple[int, int]]]:
    if layout not in LAYOUTS:
        raise UsageError(f'layout "{layout}" is unknown.' + did_you_mean(layout, LAYOUTS))
    width, height = (canvas, canvas) if isinstance(canvas, int) else canvas
    text = unicodedata.normalize("NFC", text)
    shown = layout_text(text, layout)
    face = face_for(shown, font, fit_size((text,), font, size, layout, (width, height)))
    lines = wrap(shown, face, width - 2 * MARGIN)
    widths = [face.getlength(line) for line in lines]
    step = _line_height(face)
    rng = random.Random(seed)
    # Two draws whatever the text, so that both sides of a pair are moved by the same fractions of their free space.
    across, down = rng.random(), rng.random()
    free_x, free_y = width - 2 * MARGIN - max(widths), height - 2 * MARGIN - step * len(lines)
    if layout in ("centre", "sign"):
        xs = [int((width - w) / 2) for w in widths]
    elif layout == "right":
        xs = [int(width - MARGIN - across * free_x / 2 - w) for w in widths]
    else:
        xs = [int(MARGIN + across * free_x / 2)] * len(lines)
    top = int(MARGIN + (0.5 if layout == "sign" else down) * free_y)
    places = [(x, top + i * step) for i, x in enumerate(xs)]
    image = Image.new("RGB", (width, height), background)
    draw = ImageDraw.Draw(image)
    if layout == "sign":
        draw.rounded_rectangle((2, 2, width - 3, height - 3), radius=8, outline=colour, width=2)
    for line, place in zip(lines, places, strict=True):
        put(image, place, line, face, colour)
    return image, lines, face, places


def blank(kind: str = "white", width: int = 160, height: int = 160, seed: int = 0) -> Image.Image:
    """An image without content: one of `COLOURS`, or "noise", independent and uniform per pixel and channel.

    Raises UsageError for an unknown kind.
    """
    if kind == "noise":
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    if kind not in COLOURS:
        raise UsageError(f'blank image "{kind}" is unknown.' + did_you_mean(kind, [*COLOURS, "noise"]))
    return Image.new("RGB", (width, height), COLOURS[kind])


def stack(top: Image.Image, bottom: Image.Image) -> Image.Image:
    """One image above the other, as MM-SafetyBench makes SD_TYPO: width is the wider one's, the unfilled area is black."""
    image = Image.new("RGB", (max(top.width, bottom.width), top.height + bottom.height))
    image.paste(top.convert("RGB"), (0, 0))
    image.paste(bottom.convert("RGB"), (0, top.height))
    return image


@dataclass(frozen=True)
class TypographyImage(ImageSource):
    """A text drawn as an image by `render_typography`; the fields are its arguments."""

    text: str
    font: str = "DejaVuSans"
    size: int = 18
    colour: Colour = (0, 0, 0)
    background: Colour = (255, 255, 255)
    layout: Layout = "left"
    seed: int = 0
    canvas: tuple[int, int] = (160, 160)

    def load(self) -> Image.Image:
        return render_typography(**asdict(self))

    def check(self) -> None:
        fit_size((unicodedata.normalize("NFC", self.text),), self.font, self.size, self.layout, self.canvas)

    def key(self) -> str:
        return recipe_key("typography", asdict(self) | signature(self.text, font_named(self.font)))


@dataclass(frozen=True)
class BlankImage(ImageSource):
    """An image without content; see `blank`."""

    kind: str = "white"
    width: int = 160
    height: int = 160
    seed: int = 0

    def load(self) -> Image.Image:
        return blank(self.kind, self.width, self.height, self.seed)

    def check(self) -> None:
        blank(self.kind, 1, 1)

    def key(self) -> str:
        return recipe_key("blank", asdict(self))


@dataclass(frozen=True)
class StackedImage(ImageSource):
    """One image above another; see `stack`."""

    top: ImageSource
    bottom: ImageSource

    def load(self) -> Image.Image:
        return stack(self.top.load(), self.bottom.load())

    def check(self) -> None:
        self.top.check()
        self.bottom.check()

    def key(self) -> str:
        return recipe_key("stacked", {"top": self.top.key(), "bottom": self.bottom.key()})
