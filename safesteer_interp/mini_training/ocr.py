"""What an OCR engine reads in the benchmark's images, and a bag of words on it: the control beside mini's probe on image requests.

That harm can be read from an image may be no more than that its words can. The engine is `rapidocr` (extra `ocr`; its models travel in
its wheel; `datasets.wording`). A picture has no words, so there is nothing to say about pictures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from safesteer_interp.datasets import wording
from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.pairs import stable_hash
from safesteer_interp.datasets.wording import available
from safesteer_interp.errors import InputError
from safesteer_interp.mini_training.rows import KEPT, Row, kept
from safesteer_interp.probes.controls import bag_of_words
from safesteer_interp.probes.rows import Rows
from safesteer_interp.requests import Attack, Request, Split

__all__ = ["available", "control", "engine", "read_all"]


def engine() -> Callable[[np.ndarray], str]:
    """A function from an image [height, width, 3] to the words in it. Raises InputError where the engine is not installed."""
    reader = wording.engine()

    def read(image: np.ndarray) -> str:
        return " ".join(reader(image).txts or ())

    return read


def read_all(requests: Sequence[Request], read: Callable[[np.ndarray], str], report: Callable[..., None] = lambda n: None) -> list[str]:
    """The words in each request's image."""
    found = []
    for request in requests:
        if request.image is None:
            raise InputError(f'request "{request.id}" has no image to read.')
        found.append(read(np.asarray(request.image.load())))
        report(1)
    return found


def control(attack: Attack, read: Callable[[np.ndarray], str], pairs: int | None = 72, report: Callable[..., None] = lambda n: None) -> Row:
    """AUROC of harmful against twin from the words that are read, fitted on at most `pairs` FIT pairs and reported on test pairs."""
    fitted, tested = load_bundled([attack], Split.FIT), load_bundled([attack], Split.TEST)
    chosen = set(sorted({r.pair for r in fitted}, key=lambda p: stable_hash("mini", "probe", p))[:pairs])
    requests = [*(r for r in fitted if r.pair in chosen), *tested]
    rows = Rows(
        np.zeros((len(requests), 1)),  # no model's states
        np.array([r.harmful for r in requests]),
        np.array([r.pair for r in requests]),
        train=np.array([r.split is Split.FIT for r in requests]),
    )
    found = bag_of_words(read_all(requests, read, report), rows).iloc[0]
    return kept({name: found[name].item() for name in KEPT})
