"""Power: how probable "supported" is where a claim holds, so that "undecided" can say whether there was a chance to find it.

About a lower bound, from what the table holds: the chance of the estimate at the claim's `effect`, tested at 0.05 over the number of
findings judged with it (Holm's first step; and over the numbers it was chosen among), and likewise of every paired control, to clear its
edge; and to lie beyond every null.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from safesteer_interp.runner.claim import Claim
from safesteer_interp.statistics import ENOUGH_DRAWS, Estimate, auroc_variance

LARGE = 0.8
"""Effect that is assumed where a claim names none, in standard deviations of a cluster (Cohen 1988 calls 0.8 large)."""


def assumed_effect(claim: Claim) -> float:
    """Where the estimate would lie if the claim held: its `effect`, else the middle of the band, the middle between threshold and the end
    of the scale (rates, AUROC), or `LARGE` cluster deviations beyond the threshold. NaN without an interval."""
    if claim.effect is not None:
        return claim.effect
    if isinstance(claim.threshold, tuple):
        return (claim.threshold[0] + claim.threshold[1]) / 2
    side = 1.0 if claim.direction == "above" else -1.0
    if claim.estimate.kind in ("rate", "auroc"):
        return (claim.threshold + (1.0 if side > 0 else 0.0)) / 2
    return claim.threshold + side * LARGE * deviation(claim.estimate)


def deviation(estimate: Estimate) -> float:
    """Standard deviation of one cluster's contribution, read back from the interval; NaN without one."""
    return error(estimate) * math.sqrt(units(estimate))


def error(estimate: Estimate) -> float:
    """Standard error, read back from the interval; NaN without one."""
    return (estimate.high - estimate.low) / 2 / float(stats.t.ppf(0.5 + estimate.level / 2, max(units(estimate) - 1, 1)))


def units(estimate: Estimate) -> int:
    """Independent units of an estimate."""
    return estimate.n if estimate.clusters is None else estimate.clusters


def power_of(claim: Claim, family: int, alpha: float, enough: int) -> float:
    """Lower bound of the probability of "supported" at the claim's effect; NaN for a sanity check or without an interval.

    `family`: findings judged together; `alpha`, `enough`: what a verdict needs (`runner/verdict.py`).
    """
    if claim.kind == "sanity" or not math.isfinite(error(claim.estimate)):
        return math.nan
    paired = [c.estimate for c in claim.controls if c.kind == "paired"]
    nulls = [c for c in claim.controls if c.kind == "null" and claim.direction != "within"]
    too_few = any(c.estimate.is_spread and units(c.estimate) < ENOUGH_DRAWS for c in nulls)
    if too_few or min(map(units, (claim.estimate, *paired))) < enough:
        return 0.0
    effect = assumed_effect(claim)
    spread = error_at(claim.estimate, effect)
    edges = claim.threshold if isinstance(claim.threshold, tuple) else (claim.threshold,)
    shares = any(word in claim.unit for word in ("share", "rate"))
    own = alpha / family / claim.looks  # "supported" is tested with a p that was multiplied
    missed = [1 - _clear(claim.estimate, effect, edge, own, shares=shares) for edge in edges]
    missed += [1 - _clear(c, LARGE * deviation(c), 0.0, alpha / family, shares=shares) for c in paired if math.isfinite(error(c))]
    for control in nulls:
        reach = control.estimate.high if control.absolute or claim.direction == "above" else control.estimate.low
        beyond = abs(effect - control.center) - reach if control.absolute else effect - reach
        side = -1 if claim.direction == "below" and not control.absolute else 1
        missed.append(1 - float(stats.norm.cdf(side * beyond / spread)) if spread > 0 else 0.0 if side * beyond > 0 else 1.0)
    return max(0.0, 1 - sum(missed))


def error_at(estimate: Estimate, value: float) -> float:
    """Standard error if the true value were `value`: that of a rate or an AUROC depends on it.

    What twins have in common makes an AUROC near 0.5 more exact, but hardly one near 1: a design effect below 1 is not carried over.
    """
    if estimate.kind not in ("rate", "auroc") or not 0 < value < 1:
        return error(estimate)
    effect = design_effect(estimate)
    return math.sqrt((max(1.0, effect) if estimate.kind == "auroc" else effect) * _plain_variance(estimate, value))


def design_effect(estimate: Estimate) -> float:
    """Of a rate or an AUROC: its variance over that of one independent request (of each class) per cluster.

    Exact: a score interval ends where the distance to the value is the quantile times the error that holds at its end.
    """
    end = estimate.low if estimate.low > 0 else estimate.high
    if not 0 < end < 1:
        return 1.0
    reach = abs(estimate.value - end) / float(stats.t.ppf(0.5 + estimate.level / 2, max(units(estimate) - 1, 1)))
    return reach**2 / _plain_variance(estimate, end)


def _plain_variance(estimate: Estimate, value: float) -> float:
    groups = units(estimate)
    return auroc_variance(value, groups, groups) if estimate.kind == "auroc" else value * (1 - value) / groups


def _clear(estimate: Estimate, effect: float, edge: float, alpha: float, *, shares: bool = False) -> float:
    """Power of the two-sided test at `alpha` against `edge` where the truth is `effect`, on the right side.

    `shares`: the estimate is of shares of answers; with one answer a cluster its difference is -1, 0 or 1 and its test a sign test.
    """
    distance, groups = abs(effect - edge), units(estimate)
    if shares and estimate.kind not in ("rate", "auroc") and estimate.n == groups and edge == 0:
        differ = deviation(estimate) ** 2 + effect**2
        if abs(effect) <= differ <= 1:
            return _sign_test_power(groups, differ, distance, alpha)
    spread, under_edge = error_at(estimate, effect), error_at(estimate, edge)
    bar = float(stats.t.ppf(1 - alpha / 2, groups - 1))
    if spread <= 0 or distance / spread > 25:  # beyond, the noncentral t loses its digits, and the answer is plain
        return 1.0 if distance > bar * under_edge else 0.0
    if estimate.kind in ("rate", "auroc"):  # score tests: the error under the edge sets the bar, that at the effect the chance to reach it
        return float(stats.norm.cdf((distance - bar * under_edge) / spread))
    return float(stats.nct.sf(bar, groups - 1, distance / spread))


def _sign_test_power(groups: int, differ: float, mean: float, alpha: float) -> float:
    """Power of the two-sided sign test on outcomes of which the share `differ` is not 0 and the mean is `mean` > 0."""
    some = np.arange(1, groups + 1)
    found = 0.0
    for n, chance in zip(some, stats.binom.pmf(some, groups, differ), strict=True):
        against = np.arange(n // 2 + 1)
        clear = 2 * stats.binom.cdf(against, n, 0.5) <= alpha
        found += chance * float(stats.binom.pmf(against[clear], n, (differ - mean) / 2 / differ).sum())
    return found
