"""Who is fitted on and who is scored: folds that never split a pair, and the train/test split in the same form.

A fold array gives each row its fold; rows of fold f are scored by a probe fitted on all rows of other folds, rows of fold -1 only
ever serve for fitting.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from safesteer_interp.errors import InputError


def pair_folds(pairs: np.ndarray, folds: int = 5, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Folds for cross-validation [n]: all rows of a pair (both twins, every attack) share one; sizes differ by at most one pair.

    Raises InputError for fewer pairs than folds or fewer than 2 folds.
    """
    names, codes = np.unique(np.asarray(pairs).astype(str), return_inverse=True)
    if folds < 2 or len(names) < folds:
        raise InputError(
            f"{folds}-fold cross-validation needs at least 2 folds and as many pairs as folds, but there are {len(names)} pairs."
        )
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(names))
    fold_of = np.empty(len(names), dtype=np.int64)
    fold_of[order] = np.arange(len(names)) % folds
    return fold_of[codes]


def split_folds(train: Bool[np.ndarray, " n"], pairs: np.ndarray) -> Int[np.ndarray, " n"]:
    """The train/test split as a fold array: train rows -1, all others 0. Raises InputError when a pair is on both sides."""
    train, pairs = np.asarray(train, dtype=bool), np.asarray(pairs).astype(str)
    both = sorted(set(pairs[train]) & set(pairs[~train]))
    if both:
        raise InputError(f'pair "{both[0]}" is in the train and the test split ({len(both)} such pairs); a split must keep pairs whole.')
    if not train.any() or train.all():
        raise InputError("the split has an empty train or test side; give requests of both splits.")
    return np.where(train, -1, 0)
