"""Verdicts: the only place where one is made, for all claims of an analysis at once, since each p is adjusted for the others.

The claimed region is a half line ("above" or "below" a threshold) or a band ("within" low and high). A finding or replication is

- supported: at least `ENOUGH` clusters, the whole interval in the claimed region, p < `ALPHA` after Holm's adjustment over all findings
  and replications of the analysis, the estimate beyond every null (of 39 draws or more), and beyond every paired control by interval and
  adjusted p;
- contradicted: the same, with the interval outside of the region (nulls and paired controls have no say in that);
- undecided: everything else, and the reason says what is missing.

Every p is two-sided, also where a direction is claimed: a claim may be contradicted as well as supported, so no side comes free. A sanity
check is decided by whether its bounds (an interval, or the range of a clock) lie in the region; it has no p and is in no family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from safesteer_interp.runner.claim import Claim, Control, Direction, claimed
from safesteer_interp.runner.power import assumed_effect, power_of
from safesteer_interp.statistics import ENOUGH_DRAWS, Against, Estimate, holm

ENOUGH = 12
"""Clusters that a verdict needs: below, intervals and tests hold their level on paper only, and Holm leaves no room."""
ALPHA = 0.05
TIED = 1e-9
"""Estimate and bound of a null that differ by no more than rounding are equal."""

POWER = 0.8
"""An undecided claim whose `power` is lower says how low it is."""


class Verdict(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict."""

    claim: Claim
    verdict: Verdict
    reason: str
    """One clause that says why the verdict is what it is."""
    p: float
    """Of the claim's own test, two-sided; NaN for a sanity check, or where none could be made."""
    p_holm: float
    """`p` adjusted over the findings and replications judged with it."""
    clusters_missing: int
    """How many clusters are missing for a verdict."""
    family: int
    """Findings and replications judged together."""

    @property
    def power(self) -> float:
        """At least how probable "supported" was, had the claim held by its `effect` (`runner/power.py`); NaN for a sanity check."""
        return power_of(self.claim, self.family, ALPHA, ENOUGH)

    @property
    def account(self) -> str:
        """The reason, and of an undecided claim what would have been missed."""
        power = self.power if self.verdict is Verdict.UNDECIDED else math.nan
        if not 0 < power < POWER:
            return self.reason
        effect = f"{assumed_effect(self.claim):.2g}{f' {self.claim.unit}' if self.claim.unit else ''}"
        return f"{self.reason}; a value of {effect} would have been found with a probability of at least {power:.0%}"


def judge(claims: Sequence[Claim]) -> list[Judged]:
    """The verdicts of all claims of one analysis, in their order."""
    tested = [claim.tested for claim in claims]
    adjusted: Sequence[float] = holm(tested).tolist() if tested else []
    family, found = sum(claim.kind != "sanity" for claim in claims), []
    for claim, p, p_holm in zip(claims, tested, adjusted, strict=True):
        verdict, reason = decide(claim, float(p_holm))
        found.append(Judged(claim, verdict, reason, p, float(p_holm), clusters_missing(claim), family))
    return found


def clusters_missing(claim: Claim) -> int:
    """How many independent units a finding lacks (the fewest of its estimate and its paired controls); 0 for a sanity check."""
    if claim.kind == "sanity":
        return 0
    counted = [claim.estimate, *(c.estimate for c in claim.controls if c.kind == "paired")]
    return max(0, ENOUGH - min(e.n if e.clusters is None else e.clusters for e in counted))


def decide(claim: Claim, p_holm: float) -> tuple[Verdict, str]:
    """Verdict and reason of one claim, given its adjusted p."""
    side = _side(claim.estimate, claim.direction, claim.threshold)
    region = _region(claim, outside=side == "out")
    bounds = "whole range" if claim.estimate.is_spread else "whole interval"
    if side == "none":
        return Verdict.UNDECIDED, "there is no interval"
    if missing := clusters_missing(claim):
        few = ENOUGH - missing
        return Verdict.UNDECIDED, f"{few} {claim.clusters} are too few: {missing} more are needed for a verdict"
    if side == "across":
        return Verdict.UNDECIDED, f'the interval reaches across the edge of "{region}"'
    tail = ""
    if claim.kind != "sanity":
        if math.isnan(p_holm):
            return Verdict.UNDECIDED, f"the {bounds} lies {region}, but nothing was tested"
        if p_holm >= ALPHA:
            return Verdict.UNDECIDED, f"the {bounds} lies {region}, but p = {p_holm:.2g} over all claims of this finding"
        tail = f" (p = {p_holm:.2g} over all claims of this finding)"
    if side == "out":
        return Verdict.CONTRADICTED, f"the {bounds} lies {region}{tail}"
    if claim.kind != "sanity" and not claim.difference_to and not any(c.null for c in claim.controls):
        return Verdict.UNDECIDED, "nothing it is held against could have vetoed it"
    for control in claim.controls:
        if objection := _objection(claim, control):
            return Verdict.UNDECIDED, objection
    return Verdict.SUPPORTED, f"the {bounds} lies {region}{tail}"


def _objection(claim: Claim, control: Control) -> str:
    """Why a control vetoes the claim; "" when it does not."""
    found, name = control.estimate, control.name.replace("_", " ")
    if control.kind == "context":
        return ""
    if control.kind == "paired":
        side = _side(found, claim.direction, 0.0)
        return "" if side == "in" else f"the difference to {name} is not clear of 0"
    if isinstance(claim.threshold, tuple):
        return f"{name} meets the claim as well" if claimed(found.value, claim.direction, claim.threshold) else ""
    if few := _few_draws(control):
        return few
    value = claim.estimate.value
    if control.absolute:
        beyond = abs(value - control.center) - found.high
    else:
        beyond = value - found.high if claim.direction == "above" else found.low - value
    # A draw equal to the estimate reaches as far, also where the last digit differs: both were computed in another order.
    return "" if beyond > TIED * max(1.0, abs(value)) else f"{name} alone reaches as far"


def _few_draws(control: Control) -> str:
    """Why the draws of a null cannot say how far it reaches; "" where they can."""
    found, name = control.estimate, control.name.replace("_", " ")
    draws = found.n if found.clusters is None else found.clusters
    if found.is_spread and draws < ENOUGH_DRAWS:
        return f"{draws} draws of {name} are too few, {ENOUGH_DRAWS} are needed"
    return "" if math.isfinite(found.low) and math.isfinite(found.high) else f"how far {name} alone reaches is not known"


def _side(estimate: Estimate, direction: Direction, threshold: Against) -> Literal["in", "out", "across", "none"]:
    """Where a whole interval lies with respect to the claimed region; "none" without an interval."""
    low, high = estimate.low, estimate.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return "none"
    if isinstance(threshold, tuple):
        if threshold[0] <= low and high <= threshold[1]:
            return "in"
        return "out" if high < threshold[0] or low > threshold[1] else "across"
    if direction == "below":
        low, high, threshold = -high, -low, -threshold
    if low > threshold:
        return "in"
    return "out" if high < threshold else "across"


def _region(claim: Claim, outside: bool) -> str:
    """The claimed region, or the other one, in words."""
    unit = f" {claim.unit}" if claim.unit else ""
    if isinstance(claim.threshold, tuple):
        return f"{'outside of' if outside else 'within'} {claim.threshold[0]:g} to {claim.threshold[1]:g}{unit}"
    word = {"above": "below", "below": "above"}[claim.direction] if outside else claim.direction
    return f"{word} {claim.threshold:g}{unit}"
