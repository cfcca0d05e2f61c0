"""Means by cluster: cluster-robust t interval, sign-flip p. Means of bounded values never have an interval of width zero."""

from __future__ import annotations

import math

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
    if limits is not None and (x.min() < limits[0] or x.max() > limits[1]):
        raise InputError(f"values lie between {x.min():g} and {x.max():g} but were said to lie within {limits[0]:g} to {limits[1]:g}.")
    value, size = float(x.mean()), np.bincount(codes, minlength=groups) * (groups / len(x))
    influence = np.bincount(codes, x, groups) * (groups / len(x)) - size * value
    return from_influence(value, influence, n=len(x), weights=size, against=against, bounds=limits, seed=seed, level=level, kind="mean")


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
) -> Estimate:
    """A statistic that is (to first order) value + the mean of one influence per cluster [G]: t interval with G - 1 degrees of freedom,
    p of flipping the signs of influence + weight * (value - against). `weights` [G] (mean 1): how much of the rows a cluster holds."""
    groups = len(influence)
    share = np.ones(groups) if weights is None else weights
    p = nearer(against, lambda edge: flip_p(influence + share * (value - edge), seed=seed)) if math.isfinite(value) else None
    error = math.sqrt(float((influence**2).sum()) / (groups * (groups - 1)))
    if not math.isfinite(value) or error <= 1e-12 * max(1.0, abs(value)):
        low, high = _constant(value, groups, bounds, level)
    else:
        half = float(stats.t.ppf(0.5 + level / 2, groups - 1)) * error
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
