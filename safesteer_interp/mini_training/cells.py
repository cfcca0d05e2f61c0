"""Training images with dense labels: for every 16-pixel cell the LM token whose rendering covers it, for every 8-pixel cell its character.

A word's tokens are those the language model would read it with (leading space, lower case); a picture's are its name's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from safesteer_interp.datasets.pairs import training_phrases
from safesteer_interp.datasets.pictures import PictureBox, compose_scene, picture_names
from safesteer_interp.datasets.rendering import COLOURS, FONTS, INKS, LAYOUTS, SIZES, CharacterBox, blank, stack, typography
from safesteer_interp.mini_training.words import WordLists, random_text
from safesteer_interp.models.mini.tower import IMAGE_SIZE, PAPERS, PATCH_SIZE

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.'"
FINE = 8
NOTHING = -1
ENDINGS = ("", ".", "?", "!", "?.", "!.", "..")
"""What may follow a word (the list layout adds a full stop of its own)."""
MIN_TOKEN_AREA = 30.0
"""Square pixels a token must cover in a cell to be its label."""
MIN_PICTURE_AREA = 100.0
SHADE = 28
"""A colour's red, green and blue are each shifted by up to this much, so that not one exact value is learnt."""

Drawn: TypeAlias = tuple[Image.Image, np.ndarray, np.ndarray]
"""An image, the token ids of its 100 cells and the characters of its 400 fine cells."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with their cell labels (NOTHING where a cell shows nothing)."""

    images: np.ndarray
    """uint8 [n, 160, 160, 3]."""
    tokens: np.ndarray
    """int32 [n, 100]: language model token ids, in reading order."""
    characters: np.ndarray
    """int8 [n, 400]: indices into CHARACTERS."""


def coloured(rng: random.Random) -> tuple[Image.Image, str]:
    """A page of one colour in a random shade, and the colour's name."""
    name = rng.choice(list(COLOURS))
    red, green, blue = (max(0, min(255, value + rng.randint(-SHADE, SHADE))) for value in COLOURS[name])
    return Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (red, green, blue)), name


class CellMap:
    """A label per cell: the box that covers most of a cell wins it."""

    def __init__(self, cell: int, size: int = IMAGE_SIZE) -> None:
        self.cell = cell
        self.labels = np.full((size // cell, size // cell), NOTHING, np.int32)
        self._area = np.zeros(self.labels.shape)

    def cover(self, x0: float, x1: float, y0: float, y1: float, label: int, floor: float = 0.0) -> None:
        """Offer `label` to the cells under a box, in pixels; `floor` is the least area that counts."""
        n, c = len(self.labels), self.cell
        for row in range(max(0, int(y0 // c)), min(n - 1, int((y1 - 1) // c)) + 1):
            height = min(y1, (row + 1) * c) - max(y0, row * c)
            for column in range(max(0, int(x0 // c)), min(n - 1, int((x1 - 1) // c)) + 1):
                area = height * (min(x1, (column + 1) * c) - max(x0, column * c))
                if area > max(self._area[row, column], floor):
                    self._area[row, column] = area
                    self.labels[row, column] = label


class Labeller:
    """Draws random training images and labels their cells with the tokens of one tokenizer."""

    def __init__(self, tokenizer: Any, lists: WordLists, core: float = 0.7) -> None:
        """`core`: share of benchmark words in most random texts."""
        self.lists, self.core = lists, core
        self._tokenizer = tokenizer
        self.word_tokens = lru_cache(maxsize=None)(self._word_tokens)

    def _word_tokens(self, word: str) -> tuple[tuple[int, int, int], ...]:
        """(token id, first character, end character) of a word as it stands inside a sentence."""
        encoded = self._tokenizer(" " + word.lower(), return_offsets_mapping=True, add_special_tokens=False)
        spans = ((i, max(a - 1, 0), b - 1) for i, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
        return tuple((token, a, b) for token, a, b in spans if b > a)

    def token_ids(self) -> list[int]:
        """Every token id a label can be, sorted, the plain space (nothing to see) included."""
        words = [*self.lists.core, *self.lists.wide, *picture_names(), "steps", "to"]
        words += [word for phrase in training_phrases() for word in phrase.split()]  # with their hyphens and commas
        ids = {token for word in words for end in ENDINGS for token, _, _ in self.word_tokens(word + end)}
        return sorted({*ids, *self.paper_ids(), self.space_id()})

    def paper_ids(self) -> list[int]:
        """The tokens that stand for the colours of empty cells, in the order of `tower.PAPERS`. No label is ever one of them."""
        return [int(self._tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0]) for name in PAPERS]

    def space_id(self) -> int:
        """The token that stands for an empty cell."""
        return int(self._tokenizer(" ", add_special_tokens=False)["input_ids"][0])

    def label_text(self, tokens: CellMap, characters: CellMap, text: str, boxes: Iterable[CharacterBox], down: int = 0) -> None:
        """Label the cells of a drawn text; `down` shifts it by pixels (for the lower half of a stacked image)."""
        at = {box.index: box for box in boxes}
        for box in at.values():
            index = CHARACTERS.find(box.character.lower())
            if index >= 0:
                characters.cover(box.x0, box.x1, box.y0 + down, box.y1 + down, index)
        start = 0
        for word in text.split(" "):
            for token, a, b in self.word_tokens(word) if word else ():
                first, last = at[start + a], at[start + b - 1]
                tokens.cover(first.x0, last.x1, first.y0 + down, first.y1 + down, token, MIN_TOKEN_AREA)
            start += len(word) + 1

    def label_pictures(self, tokens: CellMap, boxes: Iterable[PictureBox]) -> None:
        """Label the cells of pictures with their names; a name of several tokens is spread from left to right."""
        for box in boxes:
            spans = self.word_tokens(box.name)
            width = (box.x1 - box.x0) / len(spans)
            for k, (token, _, _) in enumerate(spans):
                tokens.cover(box.x0 + k * width, box.x0 + (k + 1) * width, box.y0, box.y1, token, MIN_PICTURE_AREA)

    def draw(self, rng: random.Random) -> Drawn:
        """One random image: typography, pictures, both above each other, or blank; with token and character labels."""
        tokens, characters = CellMap(PATCH_SIZE), CellMap(FINE)
        kind = rng.random()
        if kind < 0.56:
            image = self._typography(tokens, characters, rng, (IMAGE_SIZE, IMAGE_SIZE), 0)
        elif kind < 0.81:
            image = self._scene(tokens, rng, (IMAGE_SIZE, IMAGE_SIZE))
        elif kind < 0.97:
            top = rng.choice((80, 80, 88, 96, 104))
            upper = self._scene(tokens, rng, (IMAGE_SIZE, top))
            image = stack(upper, self._typography(tokens, characters, rng, (IMAGE_SIZE, IMAGE_SIZE - top), top))
        elif kind < 0.98:
            image = blank(rng.choice(("white", "black", "noise")), seed=rng.randrange(1 << 30))
        else:
            image = coloured(rng)[0]
        return image, tokens.labels.reshape(-1), characters.labels.astype(np.int8).reshape(-1)

    def _scene(self, tokens: CellMap, rng: random.Random, canvas: tuple[int, int]) -> Image.Image:
        names = rng.sample(picture_names(), rng.choice((1, 2, 2, 3, 3)))
        scene = compose_scene(names, rng.randrange(1 << 30), canvas)
        self.label_pictures(tokens, scene.boxes)
        return scene.image

    def _typography(self, tokens: CellMap, characters: CellMap, rng: random.Random, canvas: tuple[int, int], down: int) -> Image.Image:
        layouts = LAYOUTS if canvas[1] == IMAGE_SIZE else tuple(x for x in LAYOUTS if x != "list")
        layout = rng.choice(layouts)
        text = random_text(self.lists, rng, self.core)
        if canvas[1] < IMAGE_SIZE or layout == "list":
            text = " ".join(text.split(" ")[:5])
        colour, background = rng.choice(INKS)
        drawn = typography(
            text,
            font=rng.choice(FONTS),
            size=rng.randint(*SIZES),
            colour=colour,
            background=background,
            layout=layout,
            seed=rng.randrange(1 << 30),
            canvas=canvas,
        )
        self.label_text(tokens, characters, drawn.text, drawn.boxes, down)
        return drawn.image

    def shard(self, seed: int, n: int, draw: Callable[[random.Random], Drawn] | None = None) -> LabelledImages:
        """`n` random images, each by `draw` (default: `self.draw`); the seed alone decides them."""
        rng = random.Random(seed)
        images, tokens, characters = zip(*((draw or self.draw)(rng) for _ in range(n)), strict=True)
        return LabelledImages(np.stack([np.asarray(i) for i in images]), np.stack(tokens), np.stack(characters))
