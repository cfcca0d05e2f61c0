"""Shares of outcomes: Wilson's score interval, with as many independent trials as the clusters are worth."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from safesteer_interp.errors import InputError
from safesteer_interp.statistics.clusters import cluster_codes, finite
from safesteer_interp.statistics.estimate import Against, Estimate, nearer


def cluster_rate(outcomes: ArrayLike, clusters: ArrayLike, *, against: Against = 0.5, seed: int = 0, level: float = 0.95) -> Estimate:
    """Share of true outcomes; interval and p by Wilson's score with n = rate (1 - rate) / SE^2 trials and t with G - 1 degrees of freedom.

    SE is the cluster-robust standard error. Where every outcome is the same it is 0, and the number of clusters is n. `seed` is not
    used (the test is not by permutation: an outcome that is as likely as not is the only rate whose labels could be exchanged).
    """
    x = finite(outcomes, "outcomes")
    codes, groups = cluster_codes(clusters, len(x))
    rate = float(x.mean()) if len(x) else math.nan
    if groups < 2:
        return Estimate(rate, math.nan, math.nan, len(x), groups, level, against=against, kind="rate")
    sizes = np.bincount(codes, minlength=groups)
    squares = float(((np.bincount(codes, x, groups) - sizes * rate) ** 2).sum()) * groups / (groups - 1) / len(x) ** 2
    trials = rate * (1 - rate) / squares if squares > 0 and 0 < rate < 1 else float(groups)
    t = float(stats.t.ppf(0.5 + level / 2, groups - 1))
    low, high = _score(rate, trials, t)
    return Estimate(rate, low, high, len(x), groups, level, nearer(against, lambda e: _p(rate, e, trials, groups)), against, "rate")


def _score(rate: float, trials: float, z: float) -> tuple[float, float]:
    """Wilson's bounds for a rate of `trials` trials at the quantile z."""
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half) if rate > 0 else 0.0, min(1.0, middle + half) if rate < 1 else 1.0


def _p(rate: float, null: float, trials: float, groups: int) -> float:
    """Two-sided p of the score test that Wilson's interval inverts; a null rate of 0 or 1 is refuted by one outcome."""
    if not 0 < null < 1:
        return 1.0 if rate == null else 0.0
    return float(2 * stats.t.sf(abs(rate - null) / math.sqrt(null * (1 - null) / trials), groups - 1))


def wilson(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """A proportion of independent trials with Wilson's score interval (1927)."""
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, None, level)
    if not 0 <= successes <= n:
        raise InputError(f"{successes} successes in {n} trials is impossible.")
    found = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Estimate(successes / n, float(found.low), float(found.high), n, None, level)
