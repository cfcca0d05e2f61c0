"""Verdicts: where the whole interval lies, on enough clusters, by adjusted p, and past everything that can veto."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.runner.claim import Claim, Control
from safesteer_interp.runner.verdict import Judged, Verdict, judge
from safesteer_interp.statistics import Estimate


def claim(
    low: float, high: float, direction: str = "above", threshold: Any = 0.6, clusters: int = 20, p: float = 0.001, **more: Any
) -> Claim:
    middle = Estimate((low + high) / 2, low, high, 40, clusters, p=p, against=threshold, kind="mean")
    fields: dict[str, Any] = {"id": "c", "statement": "A sentence.", "difference_to": "" if "controls" in more else "nothing", **more}
    return Claim(estimate=middle, direction=direction, threshold=threshold, **fields)  # type: ignore[arg-type]


def one(claimed: Claim) -> Judged:
    return judge([claimed])[0]


@pytest.mark.parametrize(
    ("low", "high", "direction", "threshold", "verdict"),
    [
        (0.7, 0.8, "above", 0.6, "supported"),
        (0.55, 0.8, "above", 0.6, "undecided"),
        (0.3, 0.4, "above", 0.6, "contradicted"),
        (0.6, 0.8, "above", 0.6, "undecided"),
        (0.1, 0.2, "below", 0.3, "supported"),
        (0.4, 0.5, "below", 0.3, "contradicted"),
        (-0.1, 0.1, "within", (-0.2, 0.2), "supported"),
        (-0.3, 0.1, "within", (-0.2, 0.2), "undecided"),
        (0.3, 0.4, "within", (-0.2, 0.2), "contradicted"),
        (math.nan, math.nan, "above", 0.6, "undecided"),
    ],
)
def test_a_verdict_is_where_the_whole_interval_lies(low: float, high: float, direction: str, threshold: object, verdict: str) -> None:
    assert one(claim(low, high, direction, threshold)).verdict == verdict


@pytest.mark.parametrize("clusters", [2, 6, 11])
def test_fewer_than_twelve_clusters_decide_nothing_and_the_missing_are_counted(clusters: int) -> None:
    found = one(claim(0.7, 0.8, clusters=clusters))
    assert found.verdict is Verdict.UNDECIDED
    assert found.clusters_missing == 12 - clusters
    assert found.reason == f"{clusters} pairs are too few: {12 - clusters} more are needed for a verdict"
    assert one(claim(0.7, 0.8, clusters=12)).verdict is Verdict.SUPPORTED
    few = Control("twins", Estimate(0.2, 0.1, 0.3, 9, 9, p=0.001, against=0.0), kind="paired")
    assert one(claim(0.7, 0.8, controls=(few,))).clusters_missing == 3


def test_no_verdict_without_an_adjusted_p_below_five_percent() -> None:
    assert one(claim(0.7, 0.8, p=0.06)).verdict is Verdict.UNDECIDED
    assert one(claim(0.3, 0.4, p=0.06)).verdict is Verdict.UNDECIDED
    several = judge([claim(0.7, 0.8, id=str(i), p=0.02) for i in range(3)])
    assert [j.p_holm for j in several] == pytest.approx([0.06] * 3) and {j.verdict for j in several} == {Verdict.UNDECIDED}
    assert "p = 0.06 over all claims" in several[0].reason
    mixed = judge([claim(0.7, 0.8, id="a", p=0.001), claim(0.7, 0.8, id="b", p=0.2), claim(0.7, 0.8, id="s", p=0.9, kind="sanity")])
    assert [j.p_holm for j in mixed[:2]] == pytest.approx([0.002, 0.2]) and math.isnan(mixed[2].p_holm)
    assert [str(j.verdict) for j in mixed] == ["supported", "undecided", "supported"], "a sanity check is in no family"


def spread(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 200, 200, kind="spread")


def test_a_null_distribution_vetoes_unless_the_estimate_lies_beyond_it() -> None:
    wide = Control("random_direction", spread(-1.5, 0.76))
    found = one(claim(0.7, 0.8, controls=(wide,)))
    assert found.verdict is Verdict.UNDECIDED and found.reason.startswith("random direction alone reaches as far")
    assert one(claim(0.7, 0.8, controls=(Control("random_direction", spread(-1.5, 0.74)),))).verdict is Verdict.SUPPORTED
    assert one(claim(-0.8, -0.7, "below", -0.6, controls=(Control("r", spread(-0.76, 2.0)),))).verdict is Verdict.UNDECIDED
    assert one(claim(-0.8, -0.7, "below", -0.6, controls=(Control("r", spread(-0.74, 2.0)),))).verdict is Verdict.SUPPORTED
    assert one(claim(0.3, 0.4, controls=(wide,))).verdict is Verdict.CONTRADICTED, "what is contradicted needs no null"
    missing = Control("r", Estimate(0.5, math.nan, math.nan, 1, 1))
    assert one(claim(0.7, 0.8, controls=(missing,))).verdict is Verdict.UNDECIDED


def test_power_knows_that_a_p_was_multiplied() -> None:
    plain, chosen = (one(claim(-0.1, 0.1, threshold=0.0, effect=0.15, looks=looks)).power for looks in (1, 6))
    assert 0 < chosen < plain < 1
    family = judge([claim(-0.1, 0.1, threshold=0.0, effect=0.15, id=str(i)) for i in range(6)])[0].power
    assert chosen == pytest.approx(family), "six looks at one claim cost what six claims do"


def test_a_null_of_too_few_draws_can_veto_nothing_so_that_nothing_is_supported() -> None:
    for n in (8, 24, 38):
        for few in (
            Estimate.of_draws(np.zeros(n)),
            Estimate.of_draws(np.zeros(n), level=1),
            Estimate(0.0, -0.1, 0.1, 900, n, kind="spread"),
        ):
            found = one(claim(0.7, 0.8, controls=(Control("random_direction", few),)))
            assert found.verdict is Verdict.UNDECIDED and found.reason == f"{n} draws of random direction are too few, 39 are needed"
            assert found.power == 0
            assert one(claim(0.3, 0.4, controls=(Control("random_direction", few),))).verdict is Verdict.CONTRADICTED
    enough = one(claim(0.7, 0.8, controls=(Control("random_direction", Estimate.of_draws(np.zeros(39))),)))
    assert enough.verdict is Verdict.SUPPORTED and enough.power > 0
    unknown = one(claim(0.7, 0.8, controls=(Control("r", Estimate(0.5, math.nan, math.nan, 100, 100)),)))
    assert unknown.reason == "how far r alone reaches is not known"


@pytest.mark.parametrize("off", [0.0, 1e-15, -1e-15])
def test_an_estimate_that_equals_the_farthest_draw_is_not_beyond_it(off: float) -> None:
    draws = np.linspace(0.1, 0.75 + off, 39)
    null = Control("random vectors", Estimate.of_draws(draws))
    found = one(claim(0.7, 0.8, controls=(null,)))
    assert found.verdict is Verdict.UNDECIDED and found.reason == "random vectors alone reaches as far"
    assert one(claim(-0.8, -0.7, "below", -0.6, controls=(Control("r", Estimate.of_draws(-draws)),))).verdict is Verdict.UNDECIDED
    sizes = Control("r", Estimate.of_draws(np.linspace(0.0, 0.25 + off, 39)), absolute=True, center=0.5)
    assert one(claim(0.7, 0.8, controls=(sizes,))).verdict is Verdict.UNDECIDED


def test_directions_without_a_sign_of_their_own_are_compared_by_size() -> None:
    sizes = Control("random_direction", spread(0.0, 0.3), absolute=True, center=0.5)
    assert one(claim(0.7, 0.8, controls=(sizes,))).verdict is Verdict.UNDECIDED
    assert one(claim(0.82, 0.9, controls=(sizes,))).verdict is Verdict.SUPPORTED


def test_a_paired_control_must_differ_by_interval_and_p() -> None:
    def against(low: float, high: float, p: float) -> Verdict:
        difference = Estimate((low + high) / 2, low, high, 40, 20, p=p, against=0.0, kind="mean")
        return one(claim(0.7, 0.8, controls=(Control("twins", difference, kind="paired"),))).verdict

    assert against(0.1, 0.3, 0.01) is Verdict.SUPPORTED
    assert against(-0.1, 0.3, 0.01) is Verdict.UNDECIDED
    assert against(0.1, 0.3, 0.2) is Verdict.UNDECIDED
    assert against(-0.3, -0.1, 0.01) is Verdict.UNDECIDED


def test_nothing_that_could_veto_no_support() -> None:
    only = (Control("beside", Estimate(0.1, 0.0, 0.2, 20, 20), kind="context"),)
    assert one(claim(0.7, 0.8, controls=only)).verdict is Verdict.UNDECIDED
    assert one(claim(0.7, 0.8, controls=only, difference_to="no defense")).verdict is Verdict.SUPPORTED
    assert one(claim(0.3, 0.4, controls=only)).verdict is Verdict.CONTRADICTED


def test_a_sanity_check_is_decided_by_its_bounds_on_any_number_of_rounds() -> None:
    clock = Estimate(0.5, 0.4, 0.6, 3, 3, level=1.0, kind="spread")
    quick = Claim(id="q", kind="sanity", statement="It is quick.", estimate=clock, direction="below", threshold=1.0, unit="seconds")
    found = one(quick)
    assert (found.verdict, found.reason, found.clusters_missing) == (Verdict.SUPPORTED, "the whole range lies below 1 seconds", 0)


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1), st.floats(0, 0.1))
def test_flipping_the_effect_flips_the_verdict(low: float, width: float, threshold: float, p: float) -> None:
    here = one(claim(low, low + width, "above", threshold, p=p)).verdict
    there = one(claim(-low - width, -low, "above", -threshold, p=p)).verdict
    flipped = {"supported": "contradicted", "contradicted": "supported", "undecided": "undecided"}
    assert there == flipped[here]
    assert one(claim(-low - width, -low, "below", -threshold, p=p)).verdict == here
