"""Claim: one sentence about a model, its estimate, and what could veto it. The verdict is nobody's to type: `runner/verdict.py` decides.

How to write one. The table tests the number against the edge of what is claimed, so that its row holds the p::

    rows.append({"of": "SD"} | cluster_difference(refused_sd, refused_text, pairs, against=-0.3).as_row())    # in table(ctx, p)
    rows.append({"of": "random"} | Estimate.of_draws(effects_of_random_directions).as_row())                    # a spread, no interval

    Claim(                                                                                                      # in claims(t, p)
        id="slips_past_sd", kind="replication", source="arXiv:2605.11716 section 3", printed="images are refused less often than text",
        statement="A harmful request is refused less often as SD than as plain text, by 30 points or more.",
        estimate=estimate_of(row(t, of="SD")), direction="below", threshold=-0.3, unit="difference in share refused, paired",
        difference_to="the same requests as plain text",     # the estimate is itself a difference to its null; else a control must be one
        controls=(
            Control("harmless twins", estimate_of(row(t, of="SD minus twins")), kind="paired"),    # must differ from 0 on that side too
            Control("random directions", estimate_of(row(t, of="random")), kind="null"),           # the estimate must lie beyond it
            Control("CB", estimate_of(row(t, of="CB")), kind="context"),                           # shown, decides nothing
        ),
    )

A `finding` or `replication` is decided only with at least 12 clusters, its whole interval on one side of the edge, and p < 0.05 after
Holm's adjustment over the claims of the analysis. A `sanity` check (of the machinery, of a clock) is decided by its bounds alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
from scipy import stats

from safesteer_interp.statistics import Against, Estimate

Direction = Literal["above", "below", "within"]
ClaimKind = Literal["finding", "replication", "sanity"]
ControlKind = Literal["null", "paired", "context"]


@dataclass(frozen=True)
class Control:
    """What the estimate has to be held against, e.g. the same score on shuffled labels."""

    name: str
    """A name the palette knows where possible, e.g. "shuffled_labels", "bag_of_words", "random_direction"."""
    estimate: Estimate
    kind: ControlKind = "null"
    """"null": what is found where there is nothing (usually a spread of draws); the claim's estimate must lie beyond its bound on the
    claimed side. "paired": the estimate is the paired difference "claim minus this control" (of the effect, so that 0 is "no more than
    the control"); it must lie on the claimed side of 0, by interval and p. "context": shown beside the claim, decides nothing."""
    absolute: bool = False
    """Of a "null" whose draws have no sign of their own (random directions): its draws are absolute values, and the distance of the
    claim's estimate from `center` is held against them."""
    center: float = 0.0
    """Where "no effect" lies for `absolute`: 0 for differences, 0.5 for AUROC."""

    @property
    def null(self) -> bool:
        """Whether this control can veto the claim."""
        return self.kind != "context"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One checkable sentence.

    Raises ValueError with a threshold that does not fit the direction, a replication without source and printed statement, a
    finding that rests on a spread, a finding without control, and a "paired" control of a "within" claim.
    """

    id: str
    """Short and stable, e.g. "onset_later_for_images"; claims are compared across runs by it."""
    statement: str
    """A full sentence that the estimate can support or contradict, without numbers of this run."""
    estimate: Estimate
    direction: Direction
    threshold: Against
    """Edge of the claimed region, in the unit of the estimate; for "within" its (low, high). What the estimate's p was tested against."""
    controls: tuple[Control, ...] = ()
    """At least one that is no "context", or `difference_to`, or the claim is never supported."""
    kind: ClaimKind = "finding"
    """"replication" of a statement in a paper, "finding" of this suite, or "sanity" check of the machinery."""
    source: str = ""
    """Of a replication: where it is printed, e.g. "arXiv:2605.11716 Table 3"."""
    printed: str = ""
    """Of a replication: the paper's number or statement, as printed, e.g. "ASR 71.3 to 8.7"."""
    difference_to: str = ""
    """What null the estimate is itself the paired difference to, e.g. "random vectors of equal length"; "" where it is none."""
    effect: float | None = None
    """Value of the estimate where the claim holds well (the printed number, or the smallest worth having): power is computed there.
    None: 0.8 standard deviations of a cluster beyond the threshold."""
    looks: int = 1
    """Numbers that the estimate was chosen among by `one_holds`, which multiplies its p by them: power knows."""
    unit: str = ""
    """Unit of estimate and threshold, e.g. "AUROC", "layers", "percentage points"."""
    clusters: str = "pairs"
    """What the independent units are, in the plural: "pairs", "random starts", "rounds"."""
    note: str = ""
    """What limits this claim, beyond the model it was measured on."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, tuple) != (self.direction == "within"):
            raise ValueError(f'claim "{self.id}": "within" takes a (low, high) threshold, "above" and "below" take one number.')
        if (self.kind == "replication") != bool(self.source and self.printed):
            raise ValueError(f'claim "{self.id}": a replication, and only that, names its source and what is printed there.')
        if self.kind != "sanity":
            if not self.controls and not self.difference_to:
                raise ValueError(f'claim "{self.id}" has no control and is no difference to one; every finding needs either.')
            if self.estimate.is_spread:
                raise ValueError(f'claim "{self.id}" rests on a spread of draws, which is no interval; only a sanity check may.')
        if self.direction == "within" and any(c.kind == "paired" for c in self.controls):
            raise ValueError(f'claim "{self.id}": lying within a band cannot be a difference to a paired control.')

    @property
    def tested(self) -> float:
        """The p of this claim before adjustment: of its own edge and, where the estimate lies on the claimed side, of every paired
        control too (the largest; all must hold). NaN for a sanity check."""
        if self.kind == "sanity":
            return math.nan
        found = [p_against(self.estimate, self.threshold)]
        if claimed(self.estimate.value, self.direction, self.threshold):
            found += [p_against(c.estimate, 0.0) for c in self.controls if c.kind == "paired"]
        return math.nan if any(map(math.isnan, found)) else max(found)


def claimed(value: float, direction: Direction, threshold: Against) -> bool:
    """Whether a value lies in the claimed region."""
    if isinstance(threshold, tuple):
        return threshold[0] <= value <= threshold[1]
    return value > threshold if direction == "above" else value < threshold


def all_hold(estimates: Sequence[Estimate], direction: Direction, threshold: float) -> tuple[int, Estimate]:
    """Of several numbers that must all lie on the claimed side: the place of the one that decides, and its estimate for the claim.

    Where all do, the one with the largest p. Else the farthest on the other side, its p times their number, since it was chosen among them
    on the data it is tested on. Numbers that are NaN are left out. `direction` is "above" or "below".
    """
    side = 1.0 if direction == "above" else -1.0
    known = [i for i, e in enumerate(estimates) if not math.isnan(e.value)]
    if not known:
        return 0, estimates[0]
    p = {i: p_against(estimates[i], threshold) for i in known}
    if all(claimed(estimates[i].value, direction, threshold) for i in known):
        place = max(known, key=lambda i: (math.inf if math.isnan(p[i]) else p[i], -side * estimates[i].value))
        return place, estimates[place]
    place = min(known, key=lambda i: side * estimates[i].value)
    times = None if math.isnan(p[place]) else min(1.0, len(known) * p[place])
    return place, replace(estimates[place], p=times, against=threshold)


def one_holds(estimates: Sequence[Estimate], direction: Direction, threshold: float) -> tuple[int, Estimate]:
    """Of several numbers of which one must lie on the claimed side: the place of the one that decides, and its estimate for the claim.

    The farthest on the claimed side, its p times their number; where none lies there, the one with the largest p (see `all_hold`).
    """
    return all_hold(estimates, "below" if direction == "above" else "above", threshold)


def p_against(estimate: Estimate, edge: Against) -> float:
    """The estimate's p of its value being `edge`: its own test where that was made against `edge`, else the t test that its interval
    inverts (the half of the interval that faces the edge is taken for its error). NaN without an interval."""
    if estimate.p is not None and estimate.against is not None and _same(estimate.against, edge):
        return estimate.p
    if estimate.is_spread or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return math.nan
    freedom = max((estimate.clusters or estimate.n) - 1, 1)
    found = []
    for end in edge if isinstance(edge, tuple) else (edge,):
        half = estimate.value - estimate.low if end < estimate.value else estimate.high - estimate.value
        error = half / float(stats.t.ppf(0.5 + estimate.level / 2, freedom))
        distance = abs(estimate.value - end)
        found.append(float(2 * stats.t.sf(distance / error, freedom)) if error > 0 else (1.0 if distance == 0 else math.nan))
    return math.nan if any(map(math.isnan, found)) else max(found)


def _same(one: Against, two: Against) -> bool:
    """Whether two edges are the same to the six digits that a table keeps."""
    if isinstance(one, tuple) or isinstance(two, tuple):
        return isinstance(one, tuple) and isinstance(two, tuple) and all(map(_same, one, two))
    return math.isclose(one, two, rel_tol=1e-5, abs_tol=1e-12)


def estimate_of(row: Mapping[str, Any] | pd.Series, *, value: str = "value", low: str = "low", high: str = "high") -> Estimate:
    """The Estimate kept in one table row (`statistics.COLUMNS`; value, low, high and n must be there)."""

    def number(name: str, default: float) -> float:
        found = row.get(name)
        return default if found is None or not math.isfinite(float(found)) else float(found)

    clusters, to = number("clusters", math.nan), number("against_to", math.nan)
    against = number("against", math.nan)
    kind = row.get("kind")
    return Estimate(
        float(row[value]),
        float(row[low]),
        float(row[high]),
        int(row["n"]),
        clusters=None if math.isnan(clusters) else int(clusters),
        level=number("level", 0.95),
        p=None if math.isnan(p := number("p", math.nan)) else p,
        against=None if math.isnan(against) else against if math.isnan(to) else (against, to),
        kind=kind if kind in ("mean", "rate", "auroc", "statistic", "spread") else "interval",
    )
