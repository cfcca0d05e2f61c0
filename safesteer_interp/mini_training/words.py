"""The words mini's tower learns to see, and the random texts it sees them in.

Words come from every phrase of the bundled benchmark (single words only: held-out *phrases* never appear, see `random_text`), the
picture names, the training texts, and the most frequent plain words of the language model's own vocabulary.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from safesteer_interp.datasets.pairs import leaked_phrases, load_pairs, training_phrases
from safesteer_interp.datasets.pictures import picture_names
from safesteer_interp.mini_training.texts import harmless_phrases, lines_of

COMMON_WORDS = 600
"""How many frequent words of the tokenizer are added to the benchmark's own and to `data/words.txt`."""


@dataclass(frozen=True)
class WordLists:
    """Words by how often the tower should see them."""

    core: tuple[str, ...]
    """Words of the benchmark and of the picture names."""
    wide: tuple[str, ...]
    """Words of the other training texts, and frequent ones."""


def words_in(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return re.findall(r"[a-z0-9]+(?:'[a-z]+)?", text.lower())


def frequent_words(tokenizer: Any, n: int) -> list[str]:
    """The first `n` plain words (three letters or more) of the vocabulary; BPE ids follow frequency."""
    found: dict[str, None] = {}
    for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if re.fullmatch("\u0120[a-z]{3,}", token):
            found[token[1:]] = None
        if len(found) == n:
            break
    return list(found)


@cache
def _benchmark_words() -> tuple[str, ...]:
    phrases = [p.phrase(side) for p in load_pairs() for side in (True, False)]
    return tuple(sorted({w for text in phrases for w in words_in(text)} | set(picture_names())))


def word_lists(tokenizer: Any, common: int = COMMON_WORDS) -> WordLists:
    """Core and wide word lists; `common` frequent words are added to the wide one."""
    core = _benchmark_words()
    texts = [*harmless_phrases(), *lines_of("chat"), *lines_of("words"), *(f"{i} {i + 10}" for i in range(10))]
    wide = {w for text in texts for w in words_in(text)} | {str(n) for n in range(21)} | set(frequent_words(tokenizer, common))
    return WordLists(core, tuple(sorted(wide - set(core))))


def random_text(lists: WordLists, rng: random.Random, core: float = 0.7) -> str:
    """A text to draw: random words, mostly core ones with probability `core`, or a training phrase. Never a held-out phrase."""
    while True:
        kind = rng.random()
        if kind < 0.15:
            text = rng.choice(_training_phrases())
        else:
            share = core if kind < 0.75 else 0.1
            text = " ".join(
                rng.choice(lists.core if rng.random() < share else lists.wide) for _ in range(rng.choice((1, 2, 2, 3, 3, 4, 4, 5, 6, 7, 8)))
            )
        style = rng.random()
        if style < 0.15:
            text = text[:1].upper() + text[1:]
        if rng.random() < 0.1:
            text += rng.choice((".", "?", "!"))
        if not leaked_phrases(text):
            return text


@cache
def _training_phrases() -> tuple[str, ...]:
    return tuple(sorted(training_phrases()))
