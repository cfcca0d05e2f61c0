"""Power: how probable "supported" is where a claim holds, so that "undecided" can say whether there was a chance to find it.

A lower bound from what the table holds: the noncentral t of the estimate at the claim's `effect`, tested at 0.05 over the number of
findings judged with it (Holm's first step), and likewise of every paired control; and the estimate's chance to lie beyond every null.
"""

from __future__ import annotations

import math

from scipy import stats

from safesteer_interp.runner.claim import Claim
from safesteer_interp.statistics import Estimate

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
    if min(map(units, (claim.estimate, *paired))) < enough:
        return 0.0
    effect, spread = assumed_effect(claim), error(claim.estimate)
    if claim.estimate.kind in ("rate", "auroc") and 0 < effect < 1 and 0 < claim.estimate.value < 1:
        spread *= math.sqrt(effect * (1 - effect) / (claim.estimate.value * (1 - claim.estimate.value)))
    edges = claim.threshold if isinstance(claim.threshold, tuple) else (claim.threshold,)
    missed = [1 - _clear(abs(effect - edge), spread, units(claim.estimate), alpha / family) for edge in edges]
    missed += [1 - _clear(LARGE * deviation(c), error(c), units(c), alpha / family) for c in paired if math.isfinite(error(c))]
    for control in claim.controls:
        if control.kind == "null" and claim.direction != "within":
            reach = control.estimate.high if control.absolute or claim.direction == "above" else control.estimate.low
            beyond = abs(effect - control.center) - reach if control.absolute else effect - reach
            side = -1 if claim.direction == "below" and not control.absolute else 1
            missed.append(1 - float(stats.norm.cdf(side * beyond / spread)) if spread > 0 else 0.0 if side * beyond > 0 else 1.0)
    return max(0.0, 1 - sum(missed))


def _clear(distance: float, spread: float, groups: int, alpha: float) -> float:
    """Power of a two-sided t test at `alpha` of an effect `distance` away, on the right side."""
    if spread <= 0 or distance / spread > 25:  # beyond, the noncentral t loses its digits, and the answer is plain
        return 1.0 if distance > 0 else 0.0
    return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, groups - 1), groups - 1, distance / spread))
