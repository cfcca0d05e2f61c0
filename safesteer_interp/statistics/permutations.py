"""Tests by exchange: labels within pairs, signs of paired differences, McNemar; and Holm's adjustment for several of them.

All p are two-sided unless an alternative is named: a claim can be contradicted as well as supported, so neither side is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from safesteer_interp.errors import InputError
from safesteer_interp.statistics.clusters import cluster_codes, cluster_signs, finite

Alternative = Literal["two-sided", "greater", "less"]
PERMUTATIONS = 9999


def permutation_test(
    statistic: Callable[[Any, np.ndarray], float],
    values: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike,
    *,
    permutations: int = 1999,
    seed: int = 0,
    alternative: Alternative = "two-sided",
) -> float:
    """p-value of `statistic(values, labels)` when labels are exchanged as the design allows: by cluster, never by row.

    A cluster that holds both labels (a pair) has them swapped as a whole, or not; clusters of one label exchange theirs among each
    other. The observed labelling counts as one permutation, so p is never 0.
    """
    x, y = np.asarray(values), np.asarray(labels, dtype=bool)
    observed = float(statistic(x, y))
    draws = np.array([statistic(x, exchanged) for exchanged in exchanged_labels(y, clusters, permutations, seed)])
    return p_value(draws, observed, alternative)


def exchanged_labels(labels: np.ndarray, clusters: ArrayLike, permutations: int, seed: int) -> np.ndarray:
    """[permutations, n] labels exchanged as the design allows, see `permutation_test`."""
    codes, groups = cluster_codes(clusters, len(labels))
    share = np.bincount(codes, labels, groups) / np.bincount(codes, minlength=groups)
    pure = (share == 0) | (share == 1)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    flip = rng.random((permutations, groups)) < 0.5
    exchanged = np.tile(share, (permutations, 1))
    exchanged[:, pure] = rng.permuted(exchanged[:, pure], axis=1)
    return np.where(pure[codes], exchanged[:, codes] == 1, labels ^ flip[:, codes])


def sign_flip_test(
    differences: ArrayLike, clusters: ArrayLike, *, permutations: int = PERMUTATIONS, seed: int = 0, alternative: Alternative = "two-sided"
) -> float:
    """p-value of a mean paired difference: the sign of each cluster's differences is exchanged as a whole.

    Exact where there are at most `permutations` combinations of signs (13 clusters). Differences that are all 0 give 1.
    """
    x = finite(differences, "differences")
    codes, groups = cluster_codes(clusters, len(x))
    return flip_p(np.bincount(codes, x, groups), permutations=permutations, seed=seed, alternative=alternative)


def flip_p(sums: np.ndarray, *, permutations: int = PERMUTATIONS, seed: int = 0, alternative: Alternative = "two-sided") -> float:
    """The sign-flip p of the sum of one number per cluster [G]."""
    return p_value(cluster_signs(len(sums), permutations, seed) @ sums, float(sums.sum()), alternative)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """Exact two-sided p-value that two methods succeed equally often on the same items (McNemar 1947); 1.0 when they never differ."""
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape:
        raise InputError("McNemar's test needs the same items on both sides; match them by request first.")
    only_first, only_second = int((one & ~two).sum()), int((~one & two).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(stats.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(pvalues: ArrayLike) -> np.ndarray:
    """Holm's (1979) adjusted p-values in the given order; NaN stays NaN and does not count as a test."""
    p = np.asarray(pvalues, dtype=float)
    adjusted = np.full_like(p, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return adjusted


def p_value(draws: np.ndarray, observed: float, alternative: Alternative = "two-sided") -> float:
    """Share of permutations at least as extreme, the observed one included; two-sided doubles the smaller tail."""
    slack = 1e-12 * max(1.0, abs(observed))  # equal statistics computed in another order must count as ties
    greater = (1 + int((draws >= observed - slack).sum())) / (1 + len(draws))
    less = (1 + int((draws <= observed + slack).sum())) / (1 + len(draws))
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]
