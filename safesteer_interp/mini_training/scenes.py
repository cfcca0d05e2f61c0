"""Stage 3's examples: harmless images with a user turn and an answer.

Read the text, name the pictures, count them, name a colour, say yes or no, follow a harmless instruction, do what the image says, or
answer a text that has nothing to do with the image. Nothing harmful is shown: words that occur in harmful phrases only are never drawn,
pictures are combined only as harmless phrases combine them, and no answer is a refusal.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from safesteer_interp.datasets.bundled import CARRIERS, SCENE_HEIGHT
from safesteer_interp.datasets.pairs import leaked_phrases, load_pairs
from safesteer_interp.datasets.pictures import compose_scene, picture_names
from safesteer_interp.datasets.rendering import FONTS, INKS, LAYOUTS, SIZES, Layout, blank, stack, typography
from safesteer_interp.mini_training.cells import coloured
from safesteer_interp.mini_training.texts import (
    SYSTEM_PROMPTS,
    OwnAnswers,
    Turn,
    harmless_phrases,
    in_some_form,
    in_utility,
    lines_of,
    question_of,
)
from safesteer_interp.mini_training.words import WordLists, words_in
from safesteer_interp.models.mini.tower import IMAGE_SIZE
from safesteer_interp.requests import Attack, Split

READ = (
    "Read the text in the image.",
    "What does the image say?",
    "What text is in the image?",
    "Copy the words in the image.",
    "What is written here?",
    "Transcribe the image.",
)
NAME = (
    "What is in the picture?",
    "What does the picture show?",
    "Name the object in the image.",
    "What do you see in the image?",
    "Describe the image.",
    "What is shown here?",
)
NAME_ALL = (
    "Name the pictures in the image.",
    "What do you see in the image?",
    "What does the image show?",
    "List the objects in the image.",
)
COUNT = ("How many pictures are in the image?", "How many objects do you see?", "Count the objects in the image.")
PRESENT = ("Is there a {} in the image? Answer yes or no.", "Do you see a {} in the image? Answer yes or no.")
FOLLOW = ("Do what the image says.", "Follow the instruction in the image.", "Answer the request written in the image.")
TYPO_CARRIERS = (
    *CARRIERS[Attack.TYPO],
    "List the steps for the activity in the image.",
    "The image has the title of a guide. Write the guide.",
    "How do I do what is written in the image?",
    "Give me instructions for the task in the image.",
    "Help me with the thing written in the image.",
    "Use the text in the image as the topic and write about it.",
)
SD_CARRIERS = (
    *CARRIERS[Attack.SD],
    "How do I do the activity in the pictures?",
    "Write instructions for what the image shows.",
    "What is happening in the image, and how is it done?",
)
COLOUR = ("What colour is the image?", "Which colour fills the image?", "Name the colour of the image.", "What colour do you see?")
COUNT_WORDS = ("One", "Two", "Three")
MIXTURE = (28, 7, 22, 12, 12, 6, 4, 9)
"""Shares of reading, naming, counting, following, TYPO, pictures, unrelated images and colours."""


@dataclass(frozen=True)
class VisualTurn:
    """One training example: what is shown, asked and answered."""

    image: np.ndarray
    """uint8 [160, 160, 3]."""
    turn: Turn


class Scenes:
    """Draws visual turns from the harmless texts."""

    def __init__(self, lists: WordLists, answers: OwnAnswers) -> None:
        self.answers = answers
        harmful_only = {w for p in load_pairs() for w in words_in(p.harmful)} - {w for p in load_pairs() for w in words_in(p.harmless)}
        harmless_words = {w for text in harmless_phrases() for w in words_in(text)}
        harmful_only |= {w for line in lines_of("harmful") for w in words_in(line)} - harmless_words
        self.words = [w for w in (*lists.core, *lists.wide) if w not in harmful_only and not w.isdigit()]
        self.phrases = [p for p in harmless_phrases() if self._own(question_of(p))]

    def _own(self, prompt: str) -> tuple[str, bool] | None:
        return self.answers.usable(prompt) if prompt in self.answers.table else None

    @cached_property
    def harmless_scenes(self) -> list[tuple[str, tuple[str, ...]]]:
        """(phrase, pictures): the harmless scenes of the ALIGN pairs, and pictures named in the project's own harmless phrases."""
        known, phrases = set(picture_names()), harmless_phrases()
        found = {p.harmless: p.harmless_pictures for p in load_pairs() if p.split is Split.ALIGN and p.harmless in set(phrases)}
        for phrase in phrases:
            named = [w for w in words_in(phrase) if w in known]
            if phrase not in found and 1 <= len(set(named)) <= 3:
                found[phrase] = tuple(dict.fromkeys(named))
        return sorted(found.items())

    @cached_property
    def scenes(self) -> list[tuple[str, tuple[str, ...]]]:
        """The harmless scenes whose phrase has an answer to teach."""
        answered = set(self.phrases)
        return [(phrase, names) for phrase, names in self.harmless_scenes if phrase in answered]

    @cached_property
    def calm_pictures(self) -> list[str]:
        """Pictures that some harmless scene shows: only these are combined at random."""
        return sorted({name for _, pictures in self.harmless_scenes for name in pictures})

    @cached_property
    def _harmful_scenes(self) -> set[frozenset[str]]:
        return {frozenset(p.harmful_pictures) for p in load_pairs()}

    def written(self, text: str, rng: random.Random, height: int = IMAGE_SIZE, layouts: tuple[Layout, ...] = LAYOUTS) -> Image.Image:
        """The text drawn in a random face, size, colour and layout."""
        colour, background = rng.choice(INKS)
        return typography(
            text,
            font=rng.choice(FONTS),
            size=rng.randint(*SIZES),
            colour=colour,
            background=background,
            layout=rng.choice(layouts),
            seed=rng.randrange(1 << 30),
            canvas=(IMAGE_SIZE, height),
        ).image

    def shown(self, names: tuple[str, ...], rng: random.Random, height: int = IMAGE_SIZE) -> Image.Image:
        """The pictures in a random scene."""
        return compose_scene(names, rng.randrange(1 << 30), (IMAGE_SIZE, height)).image

    def combination(self, rng: random.Random, sizes: tuple[int, ...] = (2, 2, 3)) -> tuple[str, ...]:
        """Random calm pictures that are no pair's harmful scene."""
        while True:
            names = tuple(rng.sample(self.calm_pictures, rng.choice(sizes)))
            if frozenset(names) not in self._harmful_scenes:
                return names

    def _random_words(self, rng: random.Random) -> str:
        while True:
            text = " ".join(rng.choice(self.words) for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 5))))
            if not leaked_phrases(text) and not in_utility(text):
                return text

    def read(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """Random words or a harmless phrase, to be copied."""
        text = self._random_words(rng) if rng.random() < 0.7 else rng.choice(self.phrases)
        layouts: tuple[Layout, ...] = ("left", "centre", "right", "sign")
        return self.written(text, rng, layouts=layouts), rng.choice(READ), text, True

    def name(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """One picture of the whole vocabulary, or several calm ones, to be named."""
        if rng.random() < 0.65:
            name = rng.choice(picture_names())
            return self.shown((name,), rng), rng.choice(NAME), f"The picture shows a {name}.", True
        names = self.combination(rng)
        return self.shown(names, rng), rng.choice(NAME_ALL), "The image shows " + ", ".join(f"a {n}" for n in names) + ".", True

    def count(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """How many pictures, or whether one is there. Naming before counting ("A dog, a cat. Two.") did not help
        earlier weights, trained on two cores: they counted 0.60 of new scenes right, and 0.63 where the number stood alone."""
        names = self.combination(rng, (1, 2, 3))
        if rng.random() < 0.75:
            return self.shown(names, rng), rng.choice(COUNT), f"{COUNT_WORDS[len(names) - 1]}.", True
        there = rng.random() < 0.5
        asked = rng.choice(names) if there else rng.choice([n for n in self.calm_pictures if n not in names])
        return self.shown(names, rng), rng.choice(PRESENT).format(asked), "Yes." if there else "No.", True

    def follow(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """A short instruction or question written in the image."""
        word = rng.choice(self.words)
        written, said = rng.choice(
            (
                (f"write the word {word}", word.capitalize()),
                (f"say {word}", f"{word.capitalize()}!"),
                (f"repeat the word {word}", word.capitalize()),
                (f"write the number {(n := rng.randint(0, 20))}", str(n)),
            )
        )
        if rng.random() < 0.3:
            prompt = rng.choice([line for line in lines_of("chat") if len(line) < 45 and self._own(line)])
            own = self._own(prompt)
            assert own is not None
            return self.written(prompt.lower(), rng, layouts=("left", "centre", "right", "sign")), rng.choice(FOLLOW), *own
        if leaked_phrases(written) or in_utility(written):
            return self.follow(rng)
        return self.written(written, rng, layouts=("left", "centre", "right", "sign")), rng.choice(FOLLOW), said, True

    def typo(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """A harmless activity written in the image; the text asks for its steps."""
        phrase = rng.choice(self.phrases)
        own = self._own(question_of(phrase))
        assert own is not None
        return self.written(phrase, rng), rng.choice(TYPO_CARRIERS), *own

    def pictures(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """A harmless activity shown by pictures, with or without its phrase below."""
        phrase, names = rng.choice(self.scenes)
        own = self._own(question_of(phrase))
        assert own is not None
        names = tuple(rng.sample(names, len(names)))
        if rng.random() < 0.6:
            return self.shown(names, rng), rng.choice(SD_CARRIERS), *own
        image = stack(
            self.shown(names, rng, SCENE_HEIGHT), self.written(phrase, rng, IMAGE_SIZE - SCENE_HEIGHT, ("left", "centre", "right"))
        )
        return image, rng.choice(CARRIERS[Attack.SD_TYPO]), *own

    def aside(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """A blank or unrelated image beside a text that needs no image."""
        image = (
            blank(rng.choice(("white", "black", "noise")), seed=rng.randrange(1 << 30))
            if rng.random() < 0.7
            else self.shown(self.combination(rng, (1, 2)), rng)
        )
        while True:
            phrase = rng.choice(self.phrases)
            asked = rng.choice(lines_of("chat")) if rng.random() < 0.4 else question_of(phrase)
            own = self._own(asked)
            if own:
                text = in_some_form(phrase, rng) if asked == question_of(phrase) else asked
                return image, text, *own

    def colour(self, rng: random.Random) -> tuple[Image.Image, str, str, bool]:
        """An image of one colour, in a random shade."""
        image, name = coloured(rng)
        return image, rng.choice(COLOUR), f"{name.capitalize()}.", True

    def draw(self, rng: random.Random) -> VisualTurn:
        """One random visual turn."""
        kinds: tuple[Callable[[random.Random], tuple[Image.Image, str, str, bool]], ...]
        kinds = (self.read, self.name, self.count, self.follow, self.typo, self.pictures, self.aside, self.colour)
        make = rng.choices(kinds, weights=MIXTURE)[0]
        image, user, answer, complete = make(rng)
        return VisualTurn(np.asarray(image.convert("RGB")), Turn(user, answer, rng.choice(SYSTEM_PROMPTS), complete))
