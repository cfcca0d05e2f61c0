"""Means by cluster: cluster-robust t interval, sign-flip p. Means of bounded values never have an interval of width zero."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from safesteer_interp.errors import InputError
from safesteer_interp.statistics.clusters import cluster_codes, finite
from safesteer_interp.statistics.estimate import Against, Estimate, Kind, nearer
from safesteer_interp.statistics.permutations import flip_p

Bounds = tuple[float, float]
OUTCOME, DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)
"""Bounds of a yes-or-no outcome (or a share), and of the difference of two."""


def cluster_mean(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    against: Against = 0.0,
    bounds: Bounds | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The mean over rows; interval: cluster-robust t with G - 1 degrees of freedom; p: signs of clusters flipped about `against`.

    `bounds`: the least and the largest value a row can have, where there are such (`DIFFERENCE` for the difference of two outcomes).
    Equal values in all clusters say nothing about the spread: with bounds the interval is that of the rule of three, without it is NaN.
    """
    raw = np.asarray(values)
    x = finite(raw, "values")
    limits = OUTCOME if bounds is None and raw.dtype == bool else bounds
    codes, groups = cluster_codes(clusters, len(x))
    if groups < 2:
        return Estimate(float(x.mean()) if len(x) else math.nan, math.nan, math.nan, len(x), groups, level, against=against, kind="mean")
    within_bounds(x, limits)
    value, size = float(x.mean()), np.bincount(codes, minlength=groups) * (groups / len(x))
    influence = np.bincount(codes, x, groups) * (groups / len(x)) - size * value
    return from_influence(value, influence, n=len(x), weights=size, against=against, bounds=limits, seed=seed, level=level, kind="mean")


def stratified_mean(
    values: ArrayLike,
    strata: ArrayLike,
    clusters: ArrayLike,
    *,
    against: Against = 0.0,
    bounds: Bounds | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """The mean over strata of their means, each stratum counted alike; interval: t over what each cluster adds beyond the means of its
    strata, so that neither the strata's sizes nor their means count as noise; p: signs of the clusters' weighted sums flipped about
    `against`.

    A stratum of one cluster, or of equal values, says nothing of how clusters differ in it: its rows are held against the mean over all
    strata. t has the degrees of freedom of strata that spread alike (Satterthwaite 1946), G - 1 at the most: few where small strata weigh
    much. `bounds` as in `cluster_mean`. Raises InputError as that does, and for a number of strata that is not that of the values.
    """
    x, of = finite(values, "values"), np.asarray(strata)
    if of.shape != x.shape:
        raise InputError(f"{len(x)} values need {len(x)} strata, got an array of shape {of.shape}.")
    within_bounds(x, bounds)
    codes, groups = cluster_codes(clusters, len(x))
    _, stratum = np.unique(of.astype(str), return_inverse=True)
    sizes = np.bincount(stratum)
    means = np.bincount(stratum, x) / sizes
    value = float(means.mean()) if len(x) else math.nan
    if groups < 2:
        return Estimate(value, math.nan, math.nan, len(x), groups, level, against=against, kind="mean")
    weights = groups / (len(sizes) * sizes[stratum])
    held = np.array([len(np.unique(codes[stratum == s])) for s in range(len(sizes))])
    told = (held > 1) & (np.bincount(stratum, (x - means[stratum]) ** 2) > 1e-12 * sizes)
    centre = np.where(told, means, value)
    # Rows lie nearer to the mean of their own stratum than to the true one, by as much as few clusters make it.
    room = np.where(told, held / np.maximum(held - 1, 1) * (groups - 1) / groups, 1.0)
    freedom = min(groups - 1.0, float((1 / held).sum() ** 2 / (1 / (held**2 * np.maximum(held - 1, 1))).sum()))
    influence = np.bincount(codes, weights * np.sqrt(room)[stratum] * (x - centre[stratum]), groups)
    p = nearer(against, lambda edge: flip_p(np.bincount(codes, weights * (x - edge), groups), seed=seed))
    found = from_influence(value, influence, n=len(x), against=against, bounds=bounds, level=level, kind="mean", freedom=freedom)
    return replace(found, p=p)


def within_bounds(x: np.ndarray, bounds: Bounds | None) -> None:
    """Raises InputError for values outside of what was said to be their bounds."""
    if bounds is not None and len(x) and (x.min() < bounds[0] or x.max() > bounds[1]):
        raise InputError(f"values lie between {x.min():g} and {x.max():g} but were said to lie within {bounds[0]:g} to {bounds[1]:g}.")


def cluster_difference(
    first: ArrayLike, second: ArrayLike, clusters: ArrayLike, *, against: Against = 0.0, seed: int = 0, level: float = 0.95
) -> Estimate:
    """Mean of `first - second`, two outcomes (true or false, or shares in 0..1) of the same rows: `cluster_mean` with known bounds."""
    one, two = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if one.shape != two.shape:
        raise InputError("a paired difference needs the same rows on both sides; match them by request first.")
    return cluster_mean(one - two, clusters, against=against, bounds=DIFFERENCE, seed=seed, level=level)


def from_influence(
    value: float,
    influence: np.ndarray,
    *,
    n: int,
    weights: np.ndarray | None = None,
    against: Against = 0.0,
    bounds: Bounds | None = None,
    seed: int = 0,
    level: float = 0.95,
    kind: Kind = "statistic",
    freedom: float | None = None,
) -> Estimate:
    """A statistic that is (to first order) value + the mean of one influence per cluster [G]: t interval with `freedom` degrees (None:
    G - 1), p of flipping the signs of influence + weight * (value - against). `weights` [G] (mean 1): how much of the rows a cluster
    holds."""
    groups = len(influence)
    share = np.ones(groups) if weights is None else weights
    p = nearer(against, lambda edge: flip_p(influence + share * (value - edge), seed=seed)) if math.isfinite(value) else None
    error = math.sqrt(float((influence**2).sum()) / (groups * (groups - 1)))
    if not math.isfinite(value) or error <= 1e-12 * max(1.0, abs(value)):
        low, high = _constant(value, groups, bounds, level)
    else:
        half = float(stats.t.ppf(0.5 + level / 2, groups - 1 if freedom is None else freedom)) * error
        low, high = value - half, value + half
        if bounds is not None:
            low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(value, low, high, n, groups, level, p, against, kind)


def _constant(value: float, groups: int, bounds: Bounds | None, level: float) -> Bounds:
    """All clusters agree: a share of 1 - (alpha/2)^(1/G) of other clusters could have been missed, and lie at a bound (rule of three)."""
    if bounds is None or not math.isfinite(value):
        return math.nan, math.nan
    missed = 1 - (0.5 - level / 2) ** (1 / groups)
    return value - missed * (value - bounds[0]), value + missed * (bounds[1] - value)
