"""Estimate and the ways to get one: every number this suite reports carries an interval and its n.

The pair (a harmful request with its harmless twin) is the unit that was sampled, so intervals resample whole clusters. Replicate r
draws from its own generator, derived from (seed, r): an interval is the same on two cores or sixteen, and two statistics with the
same clusters and seed see the same resamples, which is what makes their difference a paired comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from safesteer_interp.errors import InputError

Statistic = Callable[..., float]
Method = Literal["percentile", "bca"]
Alternative = Literal["two-sided", "greater", "less"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `low` and `high` are NaN where the data cannot say (fewer than two clusters)."""

    value: float
    low: float
    high: float
    n: int
    """Rows the number was computed from."""
    clusters: int | None = None
    """Independent units among them (pairs); None where rows are independent."""
    level: float = 0.95

    def format(self, digits: int = 2) -> str:
        """'0.91 [0.88, 0.94]', or '0.91 [n/a]' without bounds."""
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.{digits}f} [n/a]"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def __str__(self) -> str:
        units = "" if self.clusters is None else f", {self.clusters} clusters"
        return f"{self.format()} (n = {self.n}{units})"

    @classmethod
    def of_draws(cls, draws: ArrayLike, level: float = 0.95) -> Estimate:
        """The mean of some draws (directions, machines, shuffles) with the central `level` of them: how they spread, not how well the
        mean is known. NaN draws are left out of the bounds; n and clusters are the number of draws."""
        x = np.asarray(draws, dtype=float)
        return cls(float(x.mean()), *percentile(x, level), len(x), len(x), level)

    def as_row(self) -> dict[str, float | int]:
        """The columns of a tidy table: value, low, high, n, clusters."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "clusters": self.n if self.clusters is None else self.clusters,
        }


def cluster_codes(clusters: ArrayLike, n: int) -> tuple[np.ndarray, int]:
    """Cluster ids as integers 0..G-1 [n], and G. Raises InputError when an id is missing or the lengths differ."""
    ids = np.asarray(clusters)
    if ids.shape != (n,):
        raise InputError(f"{n} rows need {n} cluster ids, got an array of shape {ids.shape}.")
    missing = sum(id_ is None or id_ == "" or id_ != id_ for id_ in ids.tolist())
    if missing:
        raise InputError(f"{missing} of {n} rows have no cluster id; every row needs the pair it belongs to.")
    names, codes = np.unique(ids.astype(str) if ids.dtype == object else ids, return_inverse=True)
    return codes, len(names)


@lru_cache(maxsize=32)
def cluster_weights(n_clusters: int, replicates: int, seed: int) -> np.ndarray:
    """How often each cluster is drawn in each replicate, [replicates, clusters] float64, read-only.

    Drawing G clusters with replacement; one generator per replicate.
    """
    weights = np.empty((replicates, n_clusters))
    for r, child in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        drawn = np.random.Generator(np.random.PCG64(child)).integers(0, n_clusters, n_clusters)
        weights[r] = np.bincount(drawn, minlength=n_clusters)
    weights.setflags(write=False)
    return weights


def cluster_bootstrap(
    statistic: Statistic,
    arrays: Any,
    clusters: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Method = "percentile",
) -> Estimate:
    """`statistic(*arrays)` with an interval from resampling whole clusters of rows.

    `arrays` is one array or a sequence of arrays with the same first dimension n. A replicate on which the statistic is undefined
    (NaN, e.g. one class only) is left out. `bca` corrects bias and skew (Efron 1987) at the price of one evaluation per cluster.
    """
    rows = _as_arrays(arrays)
    n = len(rows[0])
    codes, groups = cluster_codes(clusters, n)
    value = float(statistic(*rows))
    if groups < 2:
        return Estimate(value, math.nan, math.nan, n, groups, level)
    weights = cluster_weights(groups, replicates, seed)

    def evaluate(weight: np.ndarray) -> float:
        index = np.repeat(np.arange(n), weight[codes].astype(np.intp))
        return float(statistic(*(array[index] for array in rows)))

    draws = np.array([evaluate(weight) for weight in weights])
    if method == "bca":
        low, high = _bca(value, draws, np.array([evaluate(1.0 - row) for row in np.eye(groups)]), level)
    else:
        low, high = percentile(draws, level)
    return Estimate(value, low, high, n, groups, level)


def paired_bootstrap(
    statistic: Statistic,
    first: Any,
    second: Any,
    clusters: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Method = "percentile",
) -> Estimate:
    """`statistic(*first) - statistic(*second)`, both on the same resampled clusters; rows of `first` and `second` correspond."""
    one, two = _as_arrays(first), _as_arrays(second)
    if {len(a) for a in one} != {len(a) for a in two}:
        raise InputError("a paired comparison needs the same rows on both sides; match them by request first.")

    def difference(*rows: np.ndarray) -> float:
        return float(statistic(*rows[: len(one)])) - float(statistic(*rows[len(one) :]))

    return cluster_bootstrap(difference, [*one, *two], clusters, replicates=replicates, seed=seed, level=level, method=method)


def cluster_mean(values: ArrayLike, clusters: ArrayLike, *, replicates: int = 1000, seed: int = 0, level: float = 0.95) -> Estimate:
    """The mean over rows with a cluster-bootstrap interval (all replicates in one matrix product)."""
    x = _finite(values, "values")
    codes, groups = cluster_codes(clusters, len(x))
    if groups < 2:
        return Estimate(float(x.mean()) if len(x) else math.nan, math.nan, math.nan, len(x), groups, level)
    weights = cluster_weights(groups, replicates, seed)
    draws = (weights @ np.bincount(codes, x, groups)) / (weights @ np.bincount(codes, minlength=groups))
    return Estimate(float(x.mean()), *percentile(draws, level), len(x), groups, level)


def cluster_rate(outcomes: ArrayLike, clusters: ArrayLike, *, replicates: int = 1000, seed: int = 0, level: float = 0.95) -> Estimate:
    """Share of true outcomes with a cluster-bootstrap interval.

    Where every outcome is the same a resample cannot differ, and the interval would claim certainty: Wilson's, with the number of
    clusters as n, is given instead.
    """
    x = np.asarray(outcomes, dtype=float)
    estimate = cluster_mean(x, clusters, replicates=replicates, seed=seed, level=level)
    if estimate.clusters is not None and estimate.clusters > 1 and estimate.value in (0.0, 1.0):
        score = wilson(int(estimate.value) * estimate.clusters, estimate.clusters, level=level)
        return Estimate(estimate.value, score.low, score.high, len(x), estimate.clusters, level)
    return estimate


def wilson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A proportion of independent trials with Wilson's score interval (1927)."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, None, level)
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes in {n} trials is impossible.")
    found = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Estimate(successes / n, float(found.low), float(found.high), n, None, level)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a random positive scores above a random negative, ties counted half; NaN when a class is absent."""
    s, positive = _finite(scores, "scores"), np.asarray(labels, dtype=bool)
    n_positive = int(positive.sum())
    if n_positive == 0 or n_positive == len(s):
        return math.nan
    ranks = stats.rankdata(s)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (len(s) - n_positive)))


def cluster_auroc(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> Estimate:
    """AUROC with a cluster-bootstrap interval; equal to `cluster_bootstrap(auroc, ...)` and about fifty times faster.

    Where the classes separate perfectly every resample does too, and the interval would claim certainty: a score interval
    (Newcombe 2006, method 5), with clusters as the sample sizes, is given instead.
    """
    s, positive = _finite(scores, "scores"), np.asarray(labels, dtype=bool)
    return cluster_aurocs(s[:, None], positive, clusters, replicates=replicates, seed=seed, level=level)[0]


def cluster_aurocs(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike, *, replicates: int = 1000, seed: int = 0, level: float = 0.95
) -> list[Estimate]:
    """One `cluster_auroc` per column of `scores` [n, columns] (layers, seeds, ...), all on the same resamples."""
    s, positive = _finite(scores, "scores"), np.asarray(labels, dtype=bool)
    codes, groups = cluster_codes(clusters, len(s))
    values = [auroc(column, positive) for column in s.T]
    if groups < 2:
        return [Estimate(value, math.nan, math.nan, len(s), groups, level) for value in values]
    draws = _auroc_draws(s, positive, cluster_weights(groups, replicates, seed)[:, codes])
    sizes = len(np.unique(codes[positive])), len(np.unique(codes[~positive]))
    found = []
    for value, column in zip(values, draws, strict=True):
        bounds = _separated(value, *sizes, level) if value in (0.0, 1.0) else percentile(column, level)
        found.append(Estimate(value, *bounds, len(s), groups, level))
    return found


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
    codes, groups = cluster_codes(clusters, len(y))
    share = np.bincount(codes, y, groups) / np.bincount(codes, minlength=groups)
    pure = (share == 0) | (share == 1)
    observed = float(statistic(x, y))
    draws = np.empty(permutations)
    for r, child in enumerate(np.random.SeedSequence(seed).spawn(permutations)):
        rng = np.random.default_rng(child)
        flip = rng.random(groups) < 0.5
        exchanged = share.copy()
        exchanged[pure] = rng.permutation(share[pure])
        draws[r] = statistic(x, np.where(pure[codes], exchanged[codes] == 1, y ^ flip[codes]))
    return _p_value(draws, observed, alternative)


def sign_flip_test(
    differences: ArrayLike, clusters: ArrayLike, *, permutations: int = 9999, seed: int = 0, alternative: Alternative = "two-sided"
) -> float:
    """p-value of a mean paired difference: the sign of each cluster's differences is exchanged as a whole."""
    x = _finite(differences, "differences")
    codes, groups = cluster_codes(clusters, len(x))
    signs = np.random.default_rng(np.random.SeedSequence(seed)).choice([-1.0, 1.0], size=(permutations, groups))
    sums = np.bincount(codes, x, groups)
    return _p_value(signs @ sums, float(sums.sum()), alternative)


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


def percentile(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of the replicates, undefined ones left out; NaN bounds when none is defined."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _auroc_draws(s: np.ndarray, positive: np.ndarray, row_weights: np.ndarray) -> np.ndarray:
    """Weighted AUROC [columns, replicates]: sort once, then cumulate the negatives' weights below each score; O(n) a replicate."""
    draws = np.empty((s.shape[1], len(row_weights)))
    for column, x in enumerate(s.T):
        order = np.argsort(x, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(x[order]) > 0])
        weights, up = row_weights[:, order], positive[order]
        above = np.add.reduceat(weights * up, starts, axis=1)
        below = np.add.reduceat(weights * ~up, starts, axis=1)
        wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
        pairs = above.sum(axis=1) * below.sum(axis=1)
        draws[column] = np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return draws


def _separated(value: float, m: int, n: int, level: float) -> tuple[float, float]:
    """Score interval of an AUROC of exactly 0 or 1 with m positives and n negatives (Newcombe 2006, Stat. Med. 25:559, method 5)."""
    z, half = float(stats.norm.ppf(0.5 + level / 2)), (m + n) / 2 - 1

    def excess(theta: float) -> float:
        spread = theta * (1 - theta) * (1 + half * (1 - theta) / (2 - theta) + half * theta / (1 + theta)) / (m * n)
        return (1 - theta) ** 2 - z * z * spread

    bound = float(optimize.brentq(excess, 0.0, 1 - 1e-9))
    return (bound, 1.0) if value == 1.0 else (0.0, 1 - bound)


def _bca(value: float, draws: np.ndarray, jackknife: np.ndarray, level: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bounds (Efron 1987); the acceleration comes from leaving out one cluster at a time."""
    draws, left = draws[~np.isnan(draws)], jackknife[~np.isnan(jackknife)]
    if not len(draws) or len(left) < 2:
        return math.nan, math.nan
    below = (np.mean(draws < value) + np.mean(draws <= value)) / 2
    if not 0 < below < 1:
        return percentile(draws, level)
    influence = left.mean() - left
    scale = float((influence**2).sum()) ** 1.5
    acceleration = float((influence**3).sum()) / (6 * scale) if scale > 0 else 0.0
    bias = stats.norm.ppf(below)
    shifted = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(draws, stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def _p_value(draws: np.ndarray, observed: float, alternative: Alternative) -> float:
    """Share of permutations at least as extreme, the observed one included; two-sided doubles the smaller tail."""
    slack = 1e-12 * max(1.0, abs(observed))  # equal statistics computed in another order must count as ties
    greater = (1 + int((draws >= observed - slack).sum())) / (1 + len(draws))
    less = (1 + int((draws <= observed + slack).sum())) / (1 + len(draws))
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


def _as_arrays(arrays: Any) -> list[np.ndarray]:
    """One array, or several with the same number of rows. Raises InputError when the numbers of rows differ."""
    several = isinstance(arrays, Sequence) and len(arrays) > 0 and np.ndim(arrays[0]) > 0
    found = [np.asarray(array) for array in (arrays if several else [arrays])]
    if len({len(array) for array in found}) != 1:
        raise InputError(f"the arrays of a bootstrap need the same number of rows, got {[len(array) for array in found]}.")
    return found


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise InputError(f"{bad} of {x.size} {name} are NaN or infinite; leave those rows out and say how many there were.")
    return x
