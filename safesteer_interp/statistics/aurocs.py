"""AUROC by cluster: a score interval widened by what the clusters share, p by swapping labels within pairs, and paired differences."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from safesteer_interp.errors import InputError
from safesteer_interp.statistics.clusters import cluster_codes, finite
from safesteer_interp.statistics.estimate import Against, Estimate, nearer
from safesteer_interp.statistics.means import DIFFERENCE, from_influence
from safesteer_interp.statistics.permutations import exchanged_labels, p_value

PERMUTATIONS = 1999


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative, ties counted half; NaN when a class is absent."""
    s, positive = finite(scores, "scores"), np.asarray(labels, dtype=bool)
    n_positive = int(positive.sum())
    if n_positive == 0 or n_positive == len(s):
        return math.nan
    ranks = stats.rankdata(s)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (len(s) - n_positive)))


def cluster_auroc(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, *, against: Against = 0.5, seed: int = 0, level: float = 0.95
) -> Estimate:
    """AUROC with its interval and the p of being `against`, see `cluster_aurocs`."""
    s, positive = finite(scores, "scores"), np.asarray(labels, dtype=bool)
    return cluster_aurocs(s[:, None], positive, clusters, against=against, seed=seed, level=level)[0]


def cluster_aurocs(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, *, against: Against = 0.5, seed: int = 0, level: float = 0.95
) -> list[Estimate]:
    """One AUROC per column of `scores` [n, columns] (layers, seeds, ...).

    The interval inverts a score test (Newcombe 2006, Stat. Med. 25:559, method 5) whose variance is multiplied by the design effect: the
    cluster-robust variance over that of independent rows. Perfect separation therefore has an interval too. The p against 0.5 swaps
    the labels of whole pairs; against any other value it is that of the score test. NaN where a class is absent.
    """
    s, positive = finite(scores, "scores"), np.asarray(labels, dtype=bool)
    codes, groups = cluster_codes(clusters, len(s))
    ranks = stats.rankdata(s, axis=0)
    sizes = len(np.unique(codes[positive])), len(np.unique(codes[~positive]))
    values = _values(ranks, positive[None])[0]
    if groups < 2 or min(sizes) == 0:
        return [Estimate(float(v), math.nan, math.nan, len(s), groups, level, against=against, kind="auroc") for v in values]
    half = 0.5 in against if isinstance(against, tuple) else against == 0.5
    swapped = _values(ranks, exchanged_labels(positive, clusters, PERMUTATIONS, seed)) if half else None
    t = float(stats.t.ppf(0.5 + level / 2, groups - 1))
    found = []
    for column, value in enumerate(map(float, values)):
        effect = _design_effect(value, auroc_influence(s[:, column], positive, codes, groups), sizes)

        def p(edge: float, value: float = value, effect: float = effect, column: int = column) -> float:
            if edge == 0.5 and swapped is not None:
                return p_value(swapped[~np.isnan(swapped[:, column]), column], value)
            return float(2 * stats.t.sf(abs(value - edge) / math.sqrt(effect * auroc_variance(edge, *sizes)), groups - 1))

        low, high = _score(value, effect, sizes, t)
        found.append(Estimate(value, low, high, len(s), groups, level, nearer(against, p), against, "auroc"))
    return found


def cluster_auroc_difference(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    clusters: ArrayLike,
    *,
    against: Against = 0.0,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """AUROC of `first` minus AUROC of `second`, two scores of the same rows: both see the same pairs, so the difference is paired."""
    if np.shape(first) != np.shape(second):
        raise InputError("a paired comparison needs the same rows on both sides; match them by request first.")
    return cluster_auroc_gap((first, labels, clusters), (second, labels, clusters), against=against, seed=seed, level=level)


Scored = tuple[ArrayLike, ArrayLike, ArrayLike]
"""Scores, labels and clusters [n] each."""


def cluster_auroc_gap(first: Scored, second: Scored, *, against: Against = 0.0, seed: int = 0, level: float = 0.95) -> Estimate:
    """AUROC of `first` minus AUROC of `second`, of different rows of the same pairs (text and picture form): (scores, labels, clusters)
    each. Paired where the two share clusters, which all of them must. t interval and sign-flip p of the clusters' influence."""
    (one, ups, ids), (two, others, too) = ((finite(s, "scores"), np.asarray(y, dtype=bool), np.asarray(c)) for s, y, c in (first, second))
    codes, groups = cluster_codes(np.concatenate([ids, too]), len(one) + len(two))
    sides = ((one, ups, codes[: len(one)]), (two, others, codes[len(one) :]))
    if any(len(np.unique(c)) != groups for *_, c in sides):
        raise InputError("a paired comparison of AUROCs needs the same pairs on both sides; leave out those that one side lacks.")
    value, n = auroc(one, ups) - auroc(two, others), max(len(one), len(two))
    if groups < 2 or math.isnan(value):
        return Estimate(value, math.nan, math.nan, n, groups, level, against=against, kind="statistic")
    up, down = (auroc_influence(s, y, c, groups) for s, y, c in sides)
    return from_influence(value, up - down, n=n, against=against, bounds=DIFFERENCE, seed=seed, level=level)


def auroc_influence(scores: np.ndarray, positive: np.ndarray, codes: np.ndarray, groups: int) -> np.ndarray:
    """[G] what each cluster adds to the AUROC, times G, around 0: their mean is 0 and AUROC + mean is the AUROC to first order."""
    above = _share_below(scores[positive], scores[~positive])
    below = 1 - _share_below(scores[~positive], scores[positive])
    value = float(above.mean())
    found = np.bincount(codes[positive], above - value, groups) / len(above)
    found = found + np.bincount(codes[~positive], below - value, groups) / len(below)
    return np.asarray(found * groups)


def auroc_variance(theta: float, m: int, n: int) -> float:
    """Variance of an AUROC of theta from m positives and n negatives, all independent (Newcombe 2006, method 5)."""
    half = (m + n) / 2 - 1
    return theta * (1 - theta) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)) / (m * n)


def _share_below(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n] the share of `others` that lie below each score, ties counted half."""
    ordered = np.sort(others)
    return np.asarray((np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2 * len(ordered)))


def _values(ranks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """AUROC [labellings, columns] from ranks [n, columns] and labellings [labellings, n]; NaN for one class only."""
    positives = labels.sum(axis=1, dtype=float)[:, None]
    others = len(ranks) - positives
    pairs = positives * others
    wins = labels.astype(float) @ ranks - positives * (positives + 1) / 2
    return np.asarray(np.divide(wins, pairs, out=np.full(wins.shape, np.nan), where=pairs > 0))


def _design_effect(value: float, influence: np.ndarray, sizes: tuple[int, int]) -> float:
    """Cluster-robust variance over that of one independent row per cluster; 1 where there is no variance to see (perfect
    separation, clusters that all say the same)."""
    groups = len(influence)
    independent = auroc_variance(value, *sizes)
    seen = float((influence**2).sum()) / (groups * (groups - 1))
    return seen / independent if 0 < value < 1 and seen > 1e-9 * independent else 1.0  # what rounding leaves is none


def _score(value: float, effect: float, sizes: tuple[int, int], t: float) -> tuple[float, float]:
    """All theta that the score test does not refute."""

    def excess(theta: float) -> float:
        return (value - theta) ** 2 - t * t * effect * auroc_variance(theta, *sizes)

    low = float(optimize.brentq(excess, 1e-12, value - 1e-9)) if value > 1e-9 and excess(1e-12) > 0 else 0.0
    high = float(optimize.brentq(excess, value + 1e-9, 1 - 1e-12)) if value < 1 - 1e-9 and excess(1 - 1e-12) > 0 else 1.0
    return low, high
