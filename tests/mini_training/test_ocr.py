"""The OCR control: words that tell reach it, words that do not leave it at chance, and without the engine a sentence."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.pairs import load_pairs
from safesteer_interp.errors import InputError
from safesteer_interp.mini_training import ocr
from safesteer_interp.requests import Attack, Split


def test_the_control_is_as_good_as_what_is_read() -> None:
    requests = [r for split in (Split.FIT, Split.TEST) for r in load_bundled([Attack.TYPO], split)]
    kept = {r.image.load().tobytes(): r for r in requests}
    phrases = {p.id: p for p in load_pairs()}

    def perfect(image: np.ndarray) -> str:
        request = kept[image.tobytes()]
        return phrases[request.pair].phrase(request.harmful)

    told: list[int] = []
    words = ocr.control(Attack.TYPO, perfect, pairs=None, report=told.append)
    assert 0.55 < words["value"] < 0.95 and words["clusters"] == 104 and sum(told) == len(requests)
    nothing = ocr.control(Attack.TYPO, lambda image: "words", pairs=8)
    assert nothing["value"] == pytest.approx(0.5)


def test_without_the_engine_a_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not ocr.available()
    with pytest.raises(InputError, match=r"pip install 'safesteer-interp\[ocr\]'"):
        ocr.engine()


@pytest.mark.skipif(not ocr.available(), reason="rapidocr is not installed (extra `ocr`)")
def test_the_engine_reads_a_rendered_phrase() -> None:
    request = next(r for r in load_bundled([Attack.TYPO], Split.VALIDATION))
    phrase = next(p for p in load_pairs() if p.id == request.pair).phrase(request.harmful)
    assert ocr.engine()(np.asarray(request.image.load())).lower().split() == phrase.split()
