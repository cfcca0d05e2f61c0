"""Claim: one sentence about a model, its estimate, its controls, and a verdict that nobody types in.

`decide` is the only place where a verdict is made. The claimed region is a half line ("above" or "below" a threshold) or a band
("within" low and high):

- supported: the whole interval lies in the claimed region, and no null control does so too;
- contradicted: the whole interval lies outside of it;
- undecided: the interval straddles the edge, is missing, or a null control meets the claim as well as the measurement does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import pandas as pd

from safesteer_interp.statistics import Estimate

SCHEMA_VERSION = 1
"""Version of claims.json; raised whenever a field changes its meaning."""


class Verdict(StrEnum):
    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


Direction = Literal["above", "below", "within"]


@dataclass(frozen=True)
class Control:
    """What the estimate has to be held against, e.g. the same score on shuffled labels."""

    name: str
    """A name the palette knows where possible, e.g. "shuffled_labels", "bag_of_words", "random_direction"."""
    estimate: Estimate
    null: bool = True
    """True: if this control meets the claim too, the claim is undecided. False: shown beside the claim, for comparison only."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable sentence. Raises ValueError without a control or with a threshold that does not fit the direction."""

    id: str
    """Short and stable, e.g. "onset_later_for_images"; claims are compared across runs by it."""
    statement: str
    """A full sentence that the estimate can support or contradict, without numbers of this run."""
    estimate: Estimate
    direction: Direction
    threshold: float | tuple[float, float]
    """Edge of the claimed region, in the unit of the estimate; for "within" its (low, high)."""
    controls: tuple[Control, ...]
    """At least one."""
    unit: str = ""
    """Unit of estimate and threshold, e.g. "AUROC", "layers", "percentage points"."""
    note: str = ""
    """What limits this claim, beyond the model it was measured on."""

    def __post_init__(self) -> None:
        if not self.controls:
            raise ValueError(f'claim "{self.id}" has no control; every claim needs at least one.')
        if isinstance(self.threshold, tuple) != (self.direction == "within"):
            raise ValueError(f'claim "{self.id}": "within" takes a (low, high) threshold, "above" and "below" take one number.')

    @property
    def verdict(self) -> Verdict:
        return decide(self)[0]

    @property
    def reason(self) -> str:
        """One clause that says why the verdict is what it is."""
        return decide(self)[1]


def _side(estimate: Estimate, direction: Direction, threshold: float | tuple[float, float]) -> Literal["in", "out", "across"]:
    """Where a whole interval lies with respect to the claimed region; an interval with a missing end lies "across"."""
    low, high = estimate.low, estimate.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return "across"
    if isinstance(threshold, tuple):
        if threshold[0] <= low and high <= threshold[1]:
            return "in"
        return "out" if high < threshold[0] or low > threshold[1] else "across"
    if direction == "below":
        low, high, threshold = -high, -low, -threshold
    if low > threshold:
        return "in"
    return "out" if high < threshold else "across"


def decide(claim: Claim) -> tuple[Verdict, str]:
    """The verdict and the reason for it, from intervals alone."""
    region = _region(claim)
    side = _side(claim.estimate, claim.direction, claim.threshold)
    if side == "out":
        return Verdict.CONTRADICTED, f"the whole interval lies outside of {region}"
    if side == "across":
        missing = not (math.isfinite(claim.estimate.low) and math.isfinite(claim.estimate.high))
        return Verdict.UNDECIDED, "there is no interval" if missing else f"the interval reaches across the edge of {region}"
    for control in claim.controls:
        if control.null and _side(control.estimate, claim.direction, claim.threshold) == "in":
            return Verdict.UNDECIDED, f'the null control "{control.name}" meets the claim as well'
    return Verdict.SUPPORTED, f"the whole interval lies {region}"


def _region(claim: Claim) -> str:
    unit = f" {claim.unit}" if claim.unit else ""
    if isinstance(claim.threshold, tuple):
        return f"within {claim.threshold[0]:g} to {claim.threshold[1]:g}{unit}"
    return f"{claim.direction} {claim.threshold:g}{unit}"


def estimate_of(row: Mapping[str, Any] | pd.Series, *, value: str = "value", low: str = "low", high: str = "high") -> Estimate:
    """The Estimate kept in one table row (columns value, low, high, n, and clusters and level where present)."""
    clusters = row.get("clusters")
    known = clusters is not None and math.isfinite(float(clusters))
    return Estimate(
        float(row[value]),
        float(row[low]),
        float(row[high]),
        int(row["n"]),
        clusters=int(float(clusters)) if known and clusters is not None else None,
        level=float(row.get("level", 0.95)),
    )


def estimate_record(estimate: Estimate) -> dict[str, Any]:
    """JSON form of an estimate: value, low, high (null where not finite), n, clusters, level; six significant digits."""
    return {
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
        "n": int(estimate.n),
        "clusters": None if estimate.clusters is None else int(estimate.clusters),
        "level": _number(estimate.level),
    }


def claim_records(claims: Sequence[Claim], *, model: str, dataset: str, scope: str) -> dict[str, Any]:
    """What claims.json holds. Raises ValueError when two claims share an id.

    Fields: schema (version), model, dataset, scope (the sentence that limits every claim), claims. Each claim: id, statement, verdict
    ("supported", "contradicted", "undecided"), reason, estimate, unit, direction ("above", "below", "within"), threshold (a number;
    [low, high] for "within"), controls (name, null, estimate), note. Each estimate: value, low, high (null where there is none), n,
    clusters (independent units; null where rows are independent), level (of the interval, 0.95).
    """
    ids = [c.id for c in claims]
    if len(set(ids)) != len(ids):
        raise ValueError(f"claims need distinct ids, got {ids}.")
    return {
        "schema": SCHEMA_VERSION,
        "model": model,
        "dataset": dataset,
        "scope": scope,
        "claims": [
            {
                "id": c.id,
                "statement": c.statement,
                "verdict": str(c.verdict),
                "reason": c.reason,
                "estimate": estimate_record(c.estimate),
                "unit": c.unit,
                "direction": c.direction,
                "threshold": list(c.threshold) if isinstance(c.threshold, tuple) else c.threshold,
                "controls": [{"name": k.name, "null": k.null, "estimate": estimate_record(k.estimate)} for k in c.controls],
                "note": c.note,
            }
            for c in claims
        ],
    }


def _number(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None
