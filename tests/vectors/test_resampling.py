"""Norms and cosines of resampled mean differences: their values by hand, without the bias that noise brings, and their p."""

from __future__ import annotations

import numpy as np
import pytest

from safesteer_interp.vectors.resampling import DifferenceBootstrap, pairwise_cosine


def test_pairwise_cosine_is_the_mean_over_pairs_of_different_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(7, 5))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    by_hand = np.mean([units[i] @ units[j] for i in range(7) for j in range(7) if i != j])
    found = pairwise_cosine(rows)
    assert found.value == pytest.approx(by_hand) and found.low <= found.value <= found.high and found.high < 0.9
    assert pairwise_cosine(np.ones((5, 3))).value == pytest.approx(1)
    assert np.isnan(pairwise_cosine(np.ones((1, 3))).value)
    common = np.random.default_rng(3).normal(size=(30, 8)) + 2
    tested = pairwise_cosine(common, against=0.0)
    assert tested.p is not None and tested.p < 0.01 < pairwise_cosine(common, against=tested.value).p  # type: ignore[operator]


def test_difference_bootstrap_equals_the_direct_computation() -> None:
    rng = np.random.default_rng(2)
    states, first = rng.normal(size=(30, 6)), np.arange(30) < 12
    states[first, 0] += 3
    found = DifferenceBootstrap(states, first, np.arange(30))
    difference = states[first].mean(0) - states[~first].mean(0)
    norm, plain = found.norm(), np.linalg.norm(difference)
    assert norm.low < norm.value < norm.high and norm.value < plain, "noise lengthens a norm, which is taken off"
    assert norm.value == pytest.approx(np.sqrt(plain**2 - 6 * (1 / 12 + 1 / 18)), rel=0.05)  # what unit noise adds to the square
    axis = np.eye(6)[0]
    cosine, plain_cosine = found.cosine(axis), difference[0] / plain
    assert cosine.low < cosine.value < cosine.high <= 1 and cosine.value > plain_cosine, "and shortens a cosine"
    assert cosine.value == pytest.approx(plain_cosine * plain / norm.value, abs=0.03)
    assert np.isnan(found.cosine(np.zeros(6)).value)
    near, far = found.cosine(axis, against=0.9), found.cosine(axis, against=-0.5)
    assert near.p is not None and far.p is not None and near.p > 0.05 > far.p and far.against == -0.5
    assert (near.value, near.low) == (cosine.value, cosine.low), "a test changes nothing else"
