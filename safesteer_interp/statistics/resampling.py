"""Intervals of any statistic: the cluster bootstrap (expanded percentiles, percentiles, BCa) and the cluster jackknife."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from safesteer_interp.errors import InputError
from safesteer_interp.statistics.clusters import cluster_codes, cluster_weights
from safesteer_interp.statistics.estimate import Against, Estimate, percentile
from safesteer_interp.statistics.means import Bounds, from_influence

Statistic = Callable[..., float]
Method = Literal["expanded", "percentile", "bca"]


def cluster_bootstrap(
    statistic: Statistic,
    arrays: Any,
    clusters: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Method = "expanded",
) -> Estimate:
    """`statistic(*arrays)` with an interval from resampling whole clusters of rows.

    `arrays` is one array or a sequence of arrays with the same first dimension n. A replicate on which the statistic is undefined
    (NaN, e.g. one class only) is left out. `expanded` takes percentiles further out, as far as t with G - 1 degrees of freedom lies
    beyond the normal (Hesterberg 2015, section 5.3), of draws centred on the estimate; `percentile` is too narrow with few clusters and
    is there to be compared with; `bca` corrects bias and skew (Efron 1987) at the price of one evaluation per cluster. Draws that are
    all equal say nothing about the spread: the bounds are NaN.
    """
    rows = as_arrays(arrays)
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
    elif method == "percentile":
        low, high = percentile(draws, level)
    else:
        low, high = expanded(value, draws, groups, level)
    if high - low <= 1e-12 * max(1.0, abs(value)):
        low, high = math.nan, math.nan
    return Estimate(value, low, high, n, groups, level, kind="statistic")


def paired_bootstrap(
    statistic: Statistic,
    first: Any,
    second: Any,
    clusters: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    method: Method = "expanded",
) -> Estimate:
    """`statistic(*first) - statistic(*second)`, both on the same resampled clusters; rows of `first` and `second` correspond."""
    one, two = as_arrays(first), as_arrays(second)
    if {len(a) for a in one} != {len(a) for a in two}:
        raise InputError("a paired comparison needs the same rows on both sides; match them by request first.")

    def difference(*rows: np.ndarray) -> float:
        return float(statistic(*rows[: len(one)])) - float(statistic(*rows[len(one) :]))

    return cluster_bootstrap(difference, [*one, *two], clusters, replicates=replicates, seed=seed, level=level, method=method)


def cluster_jackknife(
    statistic: Statistic,
    arrays: Any,
    clusters: ArrayLike,
    *,
    against: Against = 0.0,
    bounds: Bounds | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """`statistic(*arrays)` corrected for bias, its interval and p from leaving out one cluster at a time.

    For statistics that are smooth but no mean: ratios of means, Cohen's d, norms and cosines of means. The value is the mean of the
    pseudo-values G s - (G - 1) s(without one), so it is the centre of its own interval; p flips the signs of the pseudo-values.
    """
    rows = as_arrays(arrays)
    n = len(rows[0])
    codes, groups = cluster_codes(clusters, n)
    whole = float(statistic(*rows))
    if groups < 2:
        return Estimate(whole, math.nan, math.nan, n, groups, level, against=against, kind="statistic")
    left = np.array([float(statistic(*(array[codes != g] for array in rows))) for g in range(groups)])
    return from_jackknife(whole, left, n=n, against=against, bounds=bounds, seed=seed, level=level)


def from_jackknife(
    whole: float,
    left: np.ndarray,
    *,
    n: int,
    against: Against = 0.0,
    bounds: Bounds | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The jackknife estimate from the statistic of the whole sample and those without one cluster each [G]; NaN when any is NaN."""
    groups = len(left)
    pseudo = groups * whole - (groups - 1) * left
    if not np.isfinite(pseudo).all():
        return Estimate(whole, math.nan, math.nan, n, groups, level, against=against, kind="statistic")
    value = float(pseudo.mean())
    if bounds is not None:
        value = min(max(value, bounds[0]), bounds[1])
    return from_influence(value, pseudo - pseudo.mean(), n=n, against=against, bounds=bounds, seed=seed, level=level)


def expanded(value: float, draws: np.ndarray, groups: int, level: float = 0.95) -> tuple[float, float]:
    """Expanded percentiles of bootstrap draws centred on the estimate (their median is moved there), so that it lies within."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return math.nan, math.nan
    tail = float(stats.norm.cdf(-math.sqrt(groups / (groups - 1)) * stats.t.ppf(0.5 + level / 2, groups - 1)))
    low, high = np.quantile(defined - np.median(defined) + value, [tail, 1 - tail])
    return float(low), float(high)


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


def as_arrays(arrays: Any) -> list[np.ndarray]:
    """One array, or several with the same number of rows. Raises InputError when the numbers of rows differ."""
    several = isinstance(arrays, Sequence) and len(arrays) > 0 and np.ndim(arrays[0]) > 0
    found = [np.asarray(array) for array in (arrays if several else [arrays])]
    if len({len(array) for array in found}) != 1:
        raise InputError(f"the arrays of a bootstrap need the same number of rows, got {[len(array) for array in found]}.")
    return found
