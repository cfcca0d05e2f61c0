"""Stage 3's examples: nothing harmful is ever shown, asked or refused, and what is asked is what is drawn."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safesteer_interp.datasets.pairs import leaked_phrases, load_pairs
from safesteer_interp.datasets.rendering import COLOURS
from safesteer_interp.mini_training.cells import SHADE
from safesteer_interp.mini_training.scenes import PRESENT, Scenes
from safesteer_interp.mini_training.texts import OwnAnswers, harmful_phrases, harmless_phrases, lines_of, question_of
from safesteer_interp.mini_training.words import WordLists, words_in
from safesteer_interp.refusals import is_refusal

CORE = ("river", "passport", "garden", "bomb", "lemon", "table")


class Recorded(Scenes):
    """Scenes that keep what is written and shown besides drawing it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.texts: list[str] = []
        self.names: list[tuple[str, ...]] = []

    def written(self, text: str, *args: Any, **kwargs: Any) -> Image.Image:
        self.texts.append(text)
        return super().written(text, *args, **kwargs)

    def shown(self, names: tuple[str, ...], *args: Any, **kwargs: Any) -> Image.Image:
        self.names.append(names)
        return super().shown(names, *args, **kwargs)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    own = OwnAnswers(Path(tmp_path_factory.mktemp("own")) / "own.json")
    own.table = {question_of(p): ("Start with the basics", False) for p in harmless_phrases()}
    own.table |= dict.fromkeys(lines_of("chat"), ("Here you go.", True))
    return Recorded(WordLists(CORE, ("house", "music")), own)


def test_no_turn_shows_asks_or_refuses_harm(scenes: Recorded) -> None:
    rng = random.Random(5)
    turns = [scenes.draw(rng) for _ in range(400)]
    harmful = set(harmful_phrases()) | {p.harmful for p in load_pairs()}
    said = [*scenes.texts, *(t.turn.user for t in turns)]
    assert [text for text in said if text in harmful or leaked_phrases(text)] == []
    assert not any(is_refusal(t.turn.answer) for t in turns)
    combined = [frozenset(names) for names in scenes.names if len(names) > 1]
    harmful_only = {frozenset(p.harmful_pictures) for p in load_pairs()} - {frozenset(p.harmless_pictures) for p in load_pairs()}
    assert combined and not harmful_only & set(combined)
    assert len(turns) == 400 and all(t.image.shape == (160, 160, 3) for t in turns)


def test_words_of_harmful_phrases_alone_are_never_drawn(scenes: Recorded) -> None:
    harmless = {w for p in load_pairs() for w in words_in(p.harmless)} | {w for text in harmless_phrases() for w in words_in(text)}
    harmful = {w for p in load_pairs() for w in words_in(p.harmful)}
    assert "garden" in scenes.words and "river" not in scenes.words  # rivers are only poisoned here
    assert not set(scenes.words) & (harmful - harmless)


def test_counts_and_presence_are_answered_by_what_is_shown(scenes: Recorded) -> None:
    rng = random.Random(2)
    seen: Counter[str] = Counter()
    for _ in range(60):
        _, asked, answer, complete = scenes.count(rng)
        names = scenes.names[-1]
        assert complete
        if answer in ("Yes.", "No."):
            known = [n for n in scenes.calm_pictures if asked in [form.format(n) for form in PRESENT]]
            assert (answer == "Yes.") == (known[0] in names)
        else:
            assert answer == {1: "One.", 2: "Two.", 3: "Three."}[len(names)]
        seen[answer] += 1
    assert set(seen) == {"Yes.", "No.", "One.", "Two.", "Three."}


def test_a_colour_is_named_whatever_its_shade(scenes: Recorded) -> None:
    rng = random.Random(1)
    drawn = [scenes.colour(rng) for _ in range(40)]
    for image, _, answer, _ in drawn:
        pixel = np.asarray(image)[0, 0].astype(int)
        assert (np.asarray(image) == pixel).all()
        assert (np.abs(pixel - np.array(COLOURS[answer.strip(".").lower()])) <= SHADE).all()
    assert len({np.asarray(image)[0, 0].tobytes() for image, *_ in drawn}) > 20
