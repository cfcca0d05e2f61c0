"""Mutated findings: what a finding's claims make of tables in which one claim is not true, or is.

A claim's numbers are found in the shipped tables by their values, drawn anew at cluster level with their own spread, and put back with
interval and p computed from the draws; then `claims` and the rule decide again. Three ways of not being true:

- "edge": the estimate's true value is the edge of what is claimed, whatever it is held against lies far on the claimed side;
- "paired": the estimate is as large as claimed, but the paired control is as well (true difference 0); one at a time;
- "null": the estimate is one more draw of the null distribution, whose other draws are drawn anew as well: the shipped bound is a draw too,
  not the distribution's quantile.

"effect" is the claim as it holds (`Claim.effect`). A claim whose numbers are computed inside `claims`, so that no row equals them, needs a
hook: see `HOOKS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from safesteer_interp.runner.analysis import Analysis, like_returned
from safesteer_interp.runner.claim import Claim, Control, estimate_of, p_against
from safesteer_interp.runner.power import LARGE, assumed_effect, design_effect, deviation, error, error_at, units
from safesteer_interp.runner.tables import table_files
from safesteer_interp.runner.verdict import Judged, Verdict, judge
from safesteer_interp.statistics import Against, Estimate, cluster_auroc, cluster_mean, cluster_rate

Tables = dict[str, pd.DataFrame]
Judge = Callable[[Sequence[Claim]], list[Judged]]
Hook = Callable[[Tables, Claim, str, np.random.Generator], Tables]
"""(tables, claim, variant, rng) -> the tables with the claim's numbers drawn anew."""
DRAWS, THROUGH_TABLES = 200, 3


@dataclass(frozen=True)
class Finding:
    """A finding with its shipped tables and what it claims of them."""

    analysis: Analysis
    params: Any
    tables: Tables
    claims: tuple[Claim, ...]

    @classmethod
    def of(cls, analysis: Analysis, params: Any, tables: Tables) -> Finding:
        return cls(analysis, params, tables, tuple(analysis.claims(like_returned(tables), params)))

    @classmethod
    def stored(cls, analysis: Analysis, folder: Any) -> Finding:
        """The finding in a result folder, with the parameters it was made with."""
        from safesteer_interp.files import read_json
        from safesteer_interp.runner.params import from_record

        record = read_json(folder / "provenance.json")
        return cls.of(analysis, from_record(analysis.params, record["params"]), table_files(folder, list(record["tables"])))

    def claimed_of(self, tables: Tables) -> tuple[Claim, ...]:
        return tuple(self.analysis.claims(like_returned(tables), self.params))


def variants(claim: Claim) -> list[str]:
    """The ways in which this claim can be false."""
    paired = [f"paired {i}" for i, c in enumerate(claim.controls) if c.kind == "paired" and not _same(c.estimate, claim.estimate)]
    null = [f"null {i}" for i, c in enumerate(claim.controls) if c.kind == "null" and c.estimate.is_spread and claim.direction != "within"]
    return ["edge", *paired, *null]


def share_supported(
    finding: Finding, claim: Claim, variant: str, *, draws: int = DRAWS, seed: int = 0, rule: Judge = judge, hook: Hook | None = None
) -> float:
    """Share of `draws` mutated tables on which the claim is "supported".

    The first few go through the tables and `claims`; where the claim read there is the one drawn, the rest is judged without that detour.
    """
    rng, number, detour, found = np.random.default_rng([seed, len(variant)]), [c.id for c in finding.claims].index(claim.id), False, 0
    for draw in range(draws):
        if hook is not None:
            family = finding.claimed_of(hook(finding.tables, claim, variant, rng))
        else:
            drawn = redrawn(claim, variant, rng)
            family = tuple(drawn if c.id == claim.id else c for c in finding.claims)
            if detour or draw < THROUGH_TABLES:
                read = finding.claimed_of(put_back(finding.tables, claim, drawn))
                detour = detour or not _read_as(read[number], drawn)
                family = read if detour else family
        found += rule(family)[number].verdict is Verdict.SUPPORTED
    return found / draws


def redrawn(claim: Claim, variant: str, rng: np.random.Generator) -> Claim:
    """The claim with its numbers drawn anew, at `variant`."""
    kind, _, place = variant.partition(" ")
    centre: float = assumed_effect(claim)
    controls = list(claim.controls)
    if kind == "edge":
        centre = claim.threshold[rng.integers(2)] if isinstance(claim.threshold, tuple) else claim.threshold
    elif kind == "null":
        centre, controls[int(place)] = null_again(controls[int(place)], rng)
    estimate = draw_again(claim.estimate, centre, claim.threshold, claim, rng)
    if kind == "null":  # the draw is what is found, not the centre of what could be found
        estimate = shifted(estimate, centre - estimate.value, claim.threshold)
    for i, control in enumerate(controls):
        if control.kind == "paired":
            true = 0.0 if variant == f"paired {i}" else _far(claim, control.estimate)
            # Where the estimate is the weakest of its controls, both are one number of one row.
            one = _same(control.estimate, claim.estimate)
            controls[i] = replace(control, estimate=estimate if one else draw_again(control.estimate, true, 0.0, claim, rng))
    return replace(claim, estimate=estimate, controls=tuple(controls))


def _far(claim: Claim, control: Estimate) -> float:
    return (1 if claim.direction == "above" else -1) * LARGE * deviation(control)


def null_again(control: Control, rng: np.random.Generator) -> tuple[float, Control]:
    """One more draw of a null distribution, and the null of as many draws as before, drawn anew from the same.

    The distribution is the (half) normal one of which the shipped bounds are the order statistics to be expected (Blom 1958).
    """
    found, n = control.estimate, units(control.estimate)
    rank = n if found.level == 1 else math.ceil(round((1 + found.level) / 2 * (n + 1), 9))
    below = (min(rank, n) - 0.375) / (n + 0.25)
    if control.absolute:  # sizes
        drawn = np.abs(rng.normal(size=n + 1)) * found.high / float(stats.norm.ppf((1 + below) / 2))
    else:
        side = rng.normal(size=n + 1)
        drawn = found.value + side * np.where(side > 0, found.high - found.value, found.value - found.low) / float(stats.norm.ppf(below))
    others = replace(Estimate.of_draws(drawn[1:], found.level), n=found.n)
    return float(drawn[0]) + (control.center if control.absolute else 0.0), replace(control, estimate=others)


def draw_again(estimate: Estimate, centre: float, against: Against, claim: Claim, rng: np.random.Generator) -> Estimate:
    """A number of the same kind, of as many clusters with as much spread, whose true value is `centre`."""
    groups, within = units(estimate), np.arange(units(estimate))
    if estimate.kind == "rate":
        rows = max(1, round(centre * (1 - centre) / error_at(estimate, centre) ** 2 / groups)) if 0 < centre < 1 else 1
        return replace(cluster_rate(rng.random(groups * rows) < centre, np.repeat(within, rows), against=against), n=estimate.n)
    if estimate.kind == "auroc":
        gap = math.sqrt(2) * float(stats.norm.ppf(np.clip(centre, 1e-6, 1 - 1e-6)))
        shared = float(np.clip(1 - design_effect(estimate), 0, 0.95))  # twins that resemble each other make the AUROC more exact
        own, offset = math.sqrt(1 - shared), math.sqrt(shared) * rng.normal(size=groups)
        scores = np.concatenate([gap + offset + own * rng.normal(size=groups), offset + own * rng.normal(size=groups)])
        labels = np.repeat([True, False], groups)
        return replace(cluster_auroc(scores, labels, np.tile(within, 2), against=against), n=estimate.n)
    spread = deviation(estimate)
    if not math.isfinite(spread):
        return estimate
    # Outcomes of one answer differ by -1, 0 or 1; anything else is drawn as normal.
    square, shares = spread**2 + centre**2, any(word in claim.unit for word in ("share", "rate"))
    if shares and abs(centre) <= square <= 1:
        up, down = (square + centre) / 2, (square - centre) / 2
        values = rng.choice([1.0, -1.0, 0.0], size=groups, p=[up, down, 1 - up - down])
        return replace(cluster_mean(values, within, against=against, bounds=(-1, 1)), n=estimate.n, kind=estimate.kind)
    return replace(cluster_mean(rng.normal(centre, spread, groups), within, against=against), n=estimate.n, kind=estimate.kind)


def shifted(estimate: Estimate, by: float, against: Against) -> Estimate:
    """The same interval about another value, tested by t."""
    moved = replace(estimate, value=estimate.value + by, low=estimate.low + by, high=estimate.high + by, against=against)
    edges, spread = against if isinstance(against, tuple) else (against,), error(estimate)
    found = (
        max(float(2 * stats.t.sf(abs(moved.value - edge) / spread, max(units(estimate) - 1, 1))) for edge in edges) if spread > 0 else 1.0
    )
    return replace(moved, p=found)


def put_back(tables: Mapping[str, pd.DataFrame], claim: Claim, drawn: Claim) -> Tables:
    """The tables with the rows replaced that the claim, its paired controls and a null drawn anew were read from. Raises LookupError when
    there is none."""
    changes = [(claim.estimate, drawn.estimate)]
    changes += [(a.estimate, b.estimate) for a, b in zip(claim.controls, drawn.controls, strict=True) if a.estimate is not b.estimate]
    found = {name: t.copy() for name, t in tables.items()}
    for old, new in changes:
        rows = [(name, rows_of(t, old)) for name, t in tables.items()]
        if not any(mask.any() for _, mask in rows):  # the claim may have turned the sign round
            rows, new = [(name, rows_of(t, old.scaled(-1))) for name, t in tables.items()], new.scaled(-1)
        if not any(mask.any() for _, mask in rows):
            raise LookupError(f'no row of {", ".join(tables)} holds {old}, which claim "{claim.id}" rests on; give it a hook.')
        for name, mask in rows:
            write(found[name], mask, new)
    return found


def write(table: pd.DataFrame, mask: np.ndarray, estimate: Estimate) -> None:
    """Puts an estimate into the rows of a mask, in place."""
    for column, value in estimate.as_row().items() if mask.any() else ():
        if column in table:
            if isinstance(value, float):
                table[column] = table[column].astype(float)  # whole numbers came back from the file as integers
            table.loc[mask, column] = value


def siblings(name: str, *same: str) -> Hook:
    """For a claim that takes the weakest of several rows of table `name` (those that agree in the columns `same`): where it holds, it holds
    in all of them."""

    def hook(tables: Tables, claim: Claim, variant: str, rng: np.random.Generator) -> Tables:
        drawn = redrawn(claim, variant, rng)
        found = put_back(tables, claim, drawn)
        if variant == "effect":
            chosen = tables[name][rows_of(tables[name], claim.estimate)].iloc[0]
            family = np.logical_and.reduce([(tables[name][c].astype(str) == str(chosen[c])).to_numpy() for c in same])
            write(found[name], family, drawn.estimate)
        return found

    return hook


def all_at_the_edge(name: str, column: str, value: str) -> Hook:
    """For a claim that takes the strongest of several rows of table `name` (those with this value in `column`): it is false where all of
    them lie at its edge."""

    def hook(tables: Tables, claim: Claim, variant: str, rng: np.random.Generator) -> Tables:
        found = put_back(tables, claim, redrawn(claim, variant, rng))
        edge = claim.threshold
        for label, r in tables[name].iterrows() if variant == "edge" and not isinstance(edge, tuple) else ():
            if r[column] == value and (r["value"] >= 0) == (edge >= 0):
                write(found[name], np.asarray(found[name].index == label), draw_again(estimate_of(r), edge, edge, claim, rng))
        return found

    return hook


def rows_of(table: pd.DataFrame, estimate: Estimate) -> np.ndarray:
    if not {"value", "low", "high", "n"} <= set(table):
        return np.zeros(len(table), dtype=bool)
    wanted = {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
    return np.logical_and.reduce([np.isclose(table[c].astype(float), v, rtol=1e-12, atol=0, equal_nan=True) for c, v in wanted.items()])


def _read_as(read: Claim, drawn: Claim) -> bool:
    """Whether `claims` reads back what was drawn, as it was drawn: it may have chosen another row, or multiplied a p."""
    parts = zip((read, *read.controls), (drawn, *drawn.controls), strict=True)
    same = all(_same(a.estimate, b.estimate) for a, b in parts if not isinstance(a, Control) or a.kind != "context")
    return same and math.isclose(p_against(read.estimate, read.threshold), p_against(drawn.estimate, drawn.threshold), rel_tol=1e-5)


def _same(one: Estimate, two: Estimate) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9) for a, b in ((one.value, two.value), (one.low, two.low), (one.high, two.high)))


HOOKS: dict[tuple[str, str], Hook] = {
    ("defense_comparison", "lowers_*"): siblings("contrasts", "first", "second", "measure"),
    ("defense_comparison", "safesteer_lets_least_through"): siblings("contrasts", "first", "measure"),
    ("defense_composition", "*"): siblings("contrasts", "first", "measure"),
    ("judge_agreement", "lists_agree"): siblings("kappa", "measure"),
    ("judge_agreement", "judge_moves_the_rate"): all_at_the_edge("differences", "measure", "asr, list against list"),
}
"""(analysis, pattern of claim ids) -> how its tables are mutated, where the generic way does not fit."""


def hook_of(known: Finding, claim: Claim) -> Hook | None:
    found = (hook for (name, ids), hook in HOOKS.items() if name == known.analysis.id and fnmatch(claim.id, ids))
    return next(found, None)
