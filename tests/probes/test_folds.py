"""Folds keep pairs whole."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from safesteer_interp.errors import InputError
from safesteer_interp.probes.folds import pair_folds


def test_folds_keep_pairs_whole_and_are_even() -> None:
    pairs = np.repeat([f"p{i}" for i in range(23)], 4)
    folds = pair_folds(pairs, 5, seed=2)
    assert all(len(set(folds[pairs == p])) == 1 for p in set(pairs))
    sizes = np.bincount(folds) // 4
    assert sizes.max() - sizes.min() <= 1 and set(folds) == set(range(5))
    np.testing.assert_array_equal(folds, pair_folds(pairs, 5, seed=2))
    assert (folds != pair_folds(pairs, 5, seed=3)).any()
    assert len(list(GroupKFold(5).split(pairs, groups=folds))) == 5
    with pytest.raises(InputError, match="as many pairs as folds"):
        pair_folds(pairs[:8], 5)
