"""A small text classifier that tells answers that help with harm from others: logistic regression on words, kept without pickle.

It stands in for MLLM-Protector's 3-billion-parameter detector where none is given, and is called what it is: a detector-filter.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from safesteer_interp.errors import InputError
from safesteer_interp.files import read_tensors, write_tensors

KIND = "safesteer-harm-detector/1"
MOST = 4000
"""Words and pairs of words kept, the commonest ones."""
_WORD = re.compile(r"[a-z']+")


@dataclass(frozen=True, eq=False)
class WordDetector:
    """Probability that an answer is harmless, from its words and pairs of neighbouring words."""

    words: tuple[str, ...]
    weights: np.ndarray
    """[words] towards harmless, of the tf-idf features scaled to length 1."""
    idf: np.ndarray
    """[words]"""
    bias: float
    trained_on: str = ""

    @classmethod
    def fit(cls, texts: Sequence[str], harmful: Sequence[bool], trained_on: str = "") -> WordDetector:
        """From answers and whether they help with harm. Raises InputError when one kind is missing."""
        from sklearn.linear_model import LogisticRegression

        labels = np.asarray(harmful, dtype=bool)
        if labels.all() or not labels.any():
            raise InputError(
                f"a detector of harmful answers needs both kinds to learn from, but {int(labels.sum())} of {len(labels)} are harmful; "
                "give more training requests, or the weights of a released detector."
            )
        counts = [Counter(features(text)) for text in texts]
        seen = Counter(word for count in counts for word in count)
        words = tuple(word for word, n in sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:MOST] if n > 1)
        if not words:
            raise InputError("no word occurs in two of the training answers; give more training requests.")
        idf = np.log((1 + len(texts)) / (1 + np.array([seen[word] for word in words]))) + 1
        blank = cls(words, np.zeros(len(words)), idf, 0.0)
        model = LogisticRegression(class_weight="balanced", C=10.0, max_iter=1000).fit(blank.matrix(texts), ~labels)
        return cls(words, model.coef_[0].astype(np.float64), idf.astype(np.float64), float(model.intercept_[0]), trained_on)

    def matrix(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, words] tf-idf rows of length 1."""
        place = {word: i for i, word in enumerate(self.words)}
        rows = np.zeros((len(texts), len(self.words)))
        for row, text in zip(rows, texts, strict=True):
            for word, n in Counter(features(text)).items():
                if word in place:
                    row[place[word]] = n * self.idf[place[word]]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(norms > 0, norms, 1.0))

    def harmless(self, texts: Sequence[str]) -> list[float]:
        """[texts] probability of being harmless."""
        logits = self.matrix(texts) @ self.weights + self.bias if len(texts) else np.zeros(0)
        return [float(p) for p in 1 / (1 + np.exp(-logits))]

    def to_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Tensors and a record; `from_state` is the inverse."""
        return {"weights": self.weights, "idf": self.idf}, {"words": list(self.words), "bias": self.bias, "trained_on": self.trained_on}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> WordDetector:
        """What `to_state` described."""
        return cls(tuple(record["words"]), tensors["weights"], tensors["idf"], float(record["bias"]), str(record["trained_on"]))

    def save(self, path: Path | str) -> Path:
        """One safetensors file."""
        return write_tensors(path, *self.to_state(), kind=KIND)

    @classmethod
    def load(cls, path: Path | str) -> WordDetector:
        """What `save` wrote. Raises InputError for anything else."""
        return cls.from_state(*read_tensors(path, KIND))


def features(text: str) -> list[str]:
    """Words in lower case, and neighbouring pairs of them."""
    words = _WORD.findall(text.lower().replace("’", "'"))
    return [*words, *(f"{a} {b}" for a, b in itertools.pairwise(words))]
