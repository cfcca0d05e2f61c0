"""Every claim of every finding, mutated: supported in at most 5 % where it is not true, in at least 80 % where it is (or it says so).

The tables are those in figures/; `SAFESTEER_FIGURES` names another folder. They take minutes a finding, so
that they are a run of their own, `make test-simulation`. `python benchmarks/power.py` prints the table of docs/power.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.mutation import DRAWS, Finding, draw_again, hook_of, null_again, put_back, redrawn, share_supported, variants

from safesteer_interp import runner
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.verdict import Judged, Verdict, judge
from safesteer_interp.statistics import Estimate, cluster_mean

ROOT = Path(__file__).parents[2]
FIGURES = Path(os.environ.get("SAFESTEER_FIGURES", ROOT / "figures"))
FOUND = sorted(place.parent for place in FIGURES.glob("*/*/claims.json"))
MANY = 2000
TOLD = 0.2
"""How far a claim's own account of its power, which takes numbers for normal, may lie above what is simulated."""


@lru_cache(maxsize=4)
def finding(place: Path) -> Finding:
    return Finding.stored(runner.discover(ROOT / "analyses")[place.parent.name], place)


def tried(claims: Sequence[Claim]) -> list[Claim]:
    return [c for c in claims if c.kind != "sanity" and math.isfinite(c.estimate.low) and math.isfinite(c.estimate.high)]


def false_positives(known: Finding, claim: Claim) -> list[str]:
    """The ways of being false in which the claim is supported in more than 5 % of the draws (of ten times as many, where in doubt)."""
    hook, wrong = hook_of(known, claim), []
    for variant in variants(claim):
        share = share_supported(known, claim, variant, hook=hook)
        share = share_supported(known, claim, variant, hook=hook, draws=MANY, seed=1) if share > 0.05 else share
        if share > 0.05:
            wrong.append(f"{claim.id}: supported in {share:.1%} of tables in which it is not true ({variant})")
    return wrong


BY_INTERVAL: tuple[str, ...] = ()
"""Claims whose table does not hold the p of their edge yet: they are judged by the interval's t test."""


def lack_of_power(known: Finding, claim: Claim, judged: Judged) -> list[str]:
    """Empty where the claim is found in 80 % of the draws at its effect, or says that it is not, and not less often than it says."""
    share = share_supported(known, claim, "effect", hook=hook_of(known, claim))
    print(f"{known.analysis.id}  {claim.id}  power {share:.0%} (at least {judged.power:.0%} by its own account)")
    if share < min(0.8, judged.power) - TOLD:
        return [f"{claim.id}: found in {share:.0%} of tables in which it holds, but it says {judged.power:.0%}"]
    return []


@pytest.mark.simulation
@pytest.mark.parametrize("place", FOUND, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_no_claim_is_supported_where_it_is_not_true(place: Path) -> None:
    known = finding(place)
    assert [wrong for claim in tried(known.claims) for wrong in false_positives(known, claim)] == []


@pytest.mark.simulation
@pytest.mark.parametrize("place", FOUND, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_every_claim_is_found_where_it_holds_or_says_that_it_would_not_be(place: Path) -> None:
    known = finding(place)
    judged = {j.claim.id: j for j in judge(known.claims)}
    assert [wrong for claim in tried(known.claims) for wrong in lack_of_power(known, claim, judged[claim.id])] == []


@pytest.mark.parametrize("place", FOUND, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_every_claim_was_tested_against_its_own_edge(place: Path) -> None:
    """The table holds the p of the edge that is claimed; the interval's t test is a way out for analyses of users."""
    odd = []
    for claim in finding(place).claims:
        if claim.kind != "sanity" and math.isfinite(claim.estimate.low) and claim.id not in BY_INTERVAL:
            edge = claim.estimate.against
            ends = [np.atleast_1d(x) for x in (edge if edge is not None else math.nan, claim.threshold)]
            if len(ends[0]) != len(ends[1]) or not np.allclose(*ends, rtol=1e-5):
                odd.append(f"{claim.id}: tested against {edge}, claims {claim.threshold}")
    assert odd == []


# --- the tests are able to fail: the rule as it was, on a finding made for it


def as_it_was(claims: Sequence[Claim]) -> list[Judged]:
    """Schema 1's rule: the whole interval, no number of clusters, no p; a null vetoes when all of it lies in the claimed region."""
    found = []
    for claim in claims:
        assert not isinstance(claim.threshold, tuple)
        side = 1 if claim.direction == "above" else -1

        def inside(e: Estimate, side: int = side, edge: float = claim.threshold) -> bool:
            return bool(min(side * e.low, side * e.high) > side * edge)

        verdict = Verdict.SUPPORTED if inside(claim.estimate) else Verdict.UNDECIDED
        if any(c.kind == "null" and inside(c.estimate) for c in claim.controls):
            verdict = Verdict.UNDECIDED
        found.append(Judged(claim, verdict, "", math.nan, math.nan, 0, len(claims)))
    return found


def toy(pairs: int) -> Finding:
    """One claim of a difference with a wide null and a paired control, measured on `pairs` pairs."""
    rng = np.random.default_rng(0)
    rows = [
        {"of": "claim"} | cluster_mean(rng.normal(0.8, 1, pairs), np.arange(pairs)).as_row(),
        {"of": "random"} | Estimate.of_draws(rng.normal(0, 1.5, 200)).as_row(),
        {"of": "twins"} | cluster_mean(rng.normal(0.8, 1, pairs), np.arange(pairs)).as_row(),
    ]

    def claims(t: pd.DataFrame, p: Any) -> list[Claim]:
        by = {r["of"]: estimate_of(r) for _, r in t.iterrows()}
        controls = (Control("random", by["random"]), Control("twins", by["twins"], kind="paired"))
        words: dict[str, Any] = {"id": "more", "statement": "There is more.", "direction": "above", "threshold": 0.0}
        return [Claim(estimate=by["claim"], controls=controls, effect=4.0, **words)]

    given = replace(runner.discover(ROOT / "analyses")["refusal_lens"], id="toy", claims=claims)
    return Finding.of(given, None, {"table": pd.DataFrame(rows)})


def test_the_rule_as_it_was_fails_and_the_rule_as_it_is_does_not() -> None:
    known = toy(24)
    (claim,) = known.claims
    assert set(variants(claim)) == {"edge", "paired 1", "null 0"}
    for variant in ("paired 1", "null 0"):
        assert share_supported(known, claim, variant, rule=as_it_was) > 0.2, "a wide null or a twin as large vetoed nothing"
    assert all(share_supported(known, claim, variant) <= 0.05 for variant in variants(claim))
    assert share_supported(known, claim, "effect") >= 0.8


def test_with_six_pairs_a_percentile_bootstrap_fails_and_the_rule_says_too_few() -> None:
    known = toy(6)
    (claim,) = known.claims
    rng, hits = np.random.default_rng(0), 0
    for _ in range(DRAWS):
        x = rng.normal(0, 1, 6)
        low, high = np.quantile(x[rng.integers(0, 6, (500, 6))].mean(axis=1), [0.025, 0.975])
        narrow = replace(claim, estimate=Estimate(float(x.mean()), low, high, 6, 6), controls=(), difference_to="nothing")
        hits += as_it_was([narrow])[0].verdict is Verdict.SUPPORTED
    assert hits / DRAWS > 0.05, "one-sided: 2.5 % are promised"
    assert share_supported(known, claim, "effect") == 0 and "6 pairs are too few" in judge([claim])[0].reason


def test_a_number_that_no_row_holds_needs_a_hook() -> None:
    known = toy(24)
    hidden = replace(known, tables={"table": known.tables["table"].assign(value=lambda t: t["value"] + 1)})
    with pytest.raises(LookupError, match="give it a hook"):
        share_supported(hidden, known.claims[0], "edge", draws=1)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("n", [39, 50, 200])
def test_one_more_draw_of_a_null_and_its_other_draws_come_from_one_distribution(n: int, absolute: bool) -> None:
    """The shipped bound is a draw too: one more draw lies beyond a bound drawn anew in the promised share, whatever the shipped one was."""
    draws = np.random.default_rng(n).normal(0, 1.5, n)
    null = Control("random", Estimate.of_draws(np.abs(draws) if absolute else draws), absolute=absolute, center=0.5 if absolute else 0.0)
    rng, beyond, sizes = np.random.default_rng(2), [], []
    for _ in range(3000):
        one, others = null_again(null, rng)
        beyond.append(one - others.center > others.estimate.high)
        sizes.append(abs(one - (others.center or others.estimate.value)))
        assert (others.estimate.n, others.estimate.clusters, others.absolute) == (n, n, absolute)
    assert np.mean(beyond) == pytest.approx((n + 1 - math.ceil(0.975 * (n + 1))) / (n + 1), abs=0.008)
    assert np.median(sizes) == pytest.approx(1.5 * 0.674, rel=0.4), "with the spread it had, as far as two draws tell it"


def test_a_null_that_is_drawn_anew_is_put_back_and_judged() -> None:
    known = toy(24)
    (claim,) = known.claims
    drawn = redrawn(claim, "null 0", np.random.default_rng(0))
    assert drawn.controls[0].estimate != claim.controls[0].estimate
    (read,) = known.claimed_of(put_back(known.tables, claim, drawn))
    assert read.controls[0].estimate.high == drawn.controls[0].estimate.high and read.estimate.value == drawn.estimate.value
    assert share_supported(known, claim, "null 0", draws=2000) <= 0.03, "2.5 % are promised"


@pytest.mark.parametrize("kind", ["mean", "rate", "auroc", "statistic"])
def test_a_number_drawn_again_has_the_asked_value_and_the_spread_it_had(kind: str) -> None:
    (claim,) = toy(48).claims
    shipped = Estimate(0.7, 0.56, 0.84, 48, 48, kind=kind)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    drawn = [draw_again(shipped, 0.6, 0.5, claim, rng) for _ in range(150)]
    assert np.mean([e.value for e in drawn]) == pytest.approx(0.6, abs=0.03)
    assert np.mean([e.low <= 0.6 <= e.high for e in drawn]) == pytest.approx(0.95, abs=0.05)
    assert all((e.n, e.clusters, e.kind, e.against) == (48, 48, kind, 0.5) for e in drawn)
