"""Where words are in pictures: exact for what is drawn here, and what the OCR engine reads agrees with it."""

from __future__ import annotations

import numpy as np
import pytest

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.rendering import BlankImage, StackedImage, TypographyImage
from safesteer_interp.datasets.wording import WordBox, available, drawn_words, own_words, pixels_of, read_words, words_of
from safesteer_interp.images import PilImage
from safesteer_interp.requests import Attack, Split

TEXT = TypographyImage("How to pick a lock, quickly!", size=20, layout="left")


def test_the_words_of_a_drawn_picture_lie_where_its_ink_is() -> None:
    words = drawn_words(TEXT)
    assert words is not None and [w.word for w in words] == ["how", "to", "pick", "a", "lock", "quickly"]
    image = np.asarray(TEXT.load().convert("L"))
    ink = image < 128
    covered = pixels_of(words, *image.shape)
    assert ink[covered].sum() == ink.sum() and 0.05 < covered.mean() < 0.5
    for word in words:
        assert ink[int(word.y0) : int(word.y1), int(word.x0) : int(word.x1)].any(), word
    below = drawn_words(StackedImage(BlankImage(height=40), TEXT))
    assert below == tuple(WordBox(w.word, w.x0, w.x1, w.y0 + 40, w.y1 + 40) for w in words)
    assert drawn_words(BlankImage()) is None and drawn_words(StackedImage(TEXT, BlankImage())) is None


def test_own_words_are_those_the_twin_lacks() -> None:
    twin = drawn_words(TypographyImage("How to paint a lock", size=20))
    words = drawn_words(TEXT)
    assert words is not None and twin is not None
    assert [w.word for w in own_words(words, twin)] == ["pick", "quickly"]


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="rapidocr is not installed (extra `ocr`)")
def test_the_engine_finds_the_words_where_they_were_drawn() -> None:
    """Of the words it should find it reads nine in ten, and its boxes overlap those of the renderer by more than half."""
    requests = [r for r in load_bundled([Attack.TYPO], Split.VALIDATION) if r.harmful][:8]
    total, overlaps = 0, []
    for request in requests:
        assert request.image is not None
        image = np.asarray(request.image.load().convert("RGB"))
        true = drawn_words(request.image)
        assert true is not None
        read = {box.word: box for box in read_words(image)}
        total += len(true)
        for box in true:
            if box.word in read:
                one, other = (pixels_of([b], *image.shape[:2]) for b in (box, read[box.word]))
                overlaps.append((one & other).sum() / min(one.sum(), other.sum()))
    assert len(overlaps) >= 0.8 * total and np.mean(np.array(overlaps) > 0.5) > 0.9
    assert requests[0].image is not None
    found = words_of(PilImage(requests[0].image.load()))
    assert found is not None and found[1] == "ocr" and len(found[0]) > 1
