"""Claims say what they rest on, come back from tables, and fit their p to their edge."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from safesteer_interp.runner.claim import Claim, Control, all_hold, estimate_of, one_holds, p_against
from safesteer_interp.runner.claim_record import claim_records
from safesteer_interp.runner.tables import round_trip
from safesteer_interp.statistics import Estimate, cluster_auroc, cluster_difference, cluster_mean, cluster_rate

FLAT = Control("shuffled_labels", Estimate.of_draws(np.linspace(0.45, 0.55, 41)))
MIDDLE = Estimate(0.75, 0.65, 0.85, 40, 20, p=0.001, against=0.6, kind="auroc")


def claim(**changes: Any) -> Claim:
    words: dict[str, Any] = {"id": "c", "statement": "A sentence.", "estimate": MIDDLE, "direction": "above", "threshold": 0.6}
    return Claim(**{**words, "controls": (FLAT,), **changes})


def test_a_claim_needs_something_that_can_veto_it_and_a_fitting_threshold() -> None:
    with pytest.raises(ValueError, match="no control"):
        claim(controls=())
    assert claim(controls=(), difference_to="no defense").difference_to == "no defense"
    with pytest.raises(ValueError, match="within"):
        claim(direction="within")
    with pytest.raises(ValueError, match="band"):
        claim(direction="within", threshold=(0.5, 1.0), controls=(Control("other", MIDDLE, kind="paired"),))


def test_a_spread_is_no_interval() -> None:
    with pytest.raises(ValueError, match="rests on a spread"):
        claim(estimate=FLAT.estimate)
    assert math.isnan(claim(estimate=FLAT.estimate, kind="sanity").tested)


def test_a_replication_and_only_that_names_what_is_printed() -> None:
    with pytest.raises(ValueError, match="replication"):
        claim(kind="replication")
    with pytest.raises(ValueError, match="replication"):
        claim(source="arXiv:2605.11716 Table 3", printed="71.3")
    assert claim(kind="replication", source="arXiv:2605.11716 Table 3", printed="71.3").printed == "71.3"


def test_the_p_of_a_claim_is_that_of_its_weakest_part() -> None:
    paired = Control("twins", Estimate(0.2, 0.1, 0.3, 40, 20, p=0.03, against=0.0, kind="mean"), kind="paired")
    assert claim().tested == 0.001
    assert claim(controls=(FLAT, paired)).tested == 0.03
    # On the other side the claim is to be contradicted, and the controls have no say.
    low = Estimate(0.4, 0.3, 0.5, 40, 20, p=0.002, against=0.6, kind="auroc")
    assert claim(estimate=low, controls=(paired,)).tested == 0.002
    untested = Control("twins", Estimate(0.2, math.nan, math.nan, 40, 20), kind="paired")
    assert math.isnan(claim(controls=(untested,)).tested)


def test_a_p_made_against_another_edge_is_not_used() -> None:
    x, pairs = np.random.default_rng(0).normal(0.5, 1.0, 40), np.arange(40)
    found = cluster_mean(x, pairs)
    assert p_against(found, 0.0) == found.p
    for edge in (0.2, 0.5, 0.9):
        made = cluster_mean(x, pairs, against=edge)
        assert p_against(found, edge) == pytest.approx(made.p, abs=0.03), "the t test that the interval inverts is close by"
    assert p_against(found, found.low) == pytest.approx(0.05, abs=1e-6)
    assert p_against(found, (0.0, 0.2)) == pytest.approx(max(p_against(found, 0.2), found.p or 0))
    assert math.isnan(p_against(Estimate.of_draws(x), 0.0))


def below_zero(value: float, p: float | None) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1, 24, 24, p=p, against=0.0, kind="mean")


def test_of_numbers_that_must_all_hold_the_largest_p_decides() -> None:
    numbers = [below_zero(-0.5, 0.01), below_zero(-0.4, 0.002), below_zero(-0.6, 0.03)]
    assert all_hold(numbers, "below", 0.0) == (2, numbers[2]), "not the one nearest to 0"
    untested = Estimate(-0.5, math.nan, math.nan, 24, 24)
    assert all_hold([*numbers, untested], "below", 0.0) == (3, untested)


def test_of_numbers_that_must_all_hold_one_chosen_for_lying_outside_has_its_p_times_their_number() -> None:
    numbers = [below_zero(-0.5, 0.01), below_zero(0.3, 0.002), below_zero(0.1, 0.2), Estimate(math.nan, math.nan, math.nan, 24)]
    place, found = all_hold(numbers, "below", 0.0)
    assert (place, found.value, found.p) == (1, 0.3, pytest.approx(0.006)), "of three: what has no value was not compared"
    assert all_hold(numbers[2:], "below", 0.0)[1].p == 0.2 and all_hold([numbers[2]] * 36, "below", 0.0)[1].p == 1.0
    assert claim(estimate=found, direction="below", threshold=0.0).tested == pytest.approx(0.006)


def test_of_numbers_of_which_one_must_hold_the_farthest_has_its_p_times_their_number() -> None:
    numbers = [below_zero(-0.2, 0.001), below_zero(0.1, 0.0001), below_zero(-0.5, 0.004)]
    place, found = one_holds(numbers, "below", 0.0)
    assert (place, found.p) == (2, pytest.approx(0.012))
    none = [below_zero(0.3, 0.001), below_zero(0.1, 0.02)]
    assert one_holds(none, "below", 0.0) == (1, none[1]), "contradicted only if all lie on the other side"


def test_a_difference_chosen_among_many_where_there_is_none_is_rarely_contradicted() -> None:
    """Nine rivals, none better than another: the largest difference, tested as if it had been the only one, and as one of nine."""
    rng, alone, together = np.random.default_rng(0), 0, 0
    for _ in range(400):
        rivals = rng.normal(size=(9, 24))
        tests = zip(rivals.mean(axis=1), stats.ttest_1samp(rivals, 0.0, axis=1).pvalue, strict=True)
        numbers = [below_zero(float(value), float(p)) for value, p in tests]
        alone += p_against(max(numbers, key=lambda e: e.value), 0.0) < 0.05
        together += p_against(all_hold(numbers, "below", 0.0)[1], 0.0) < 0.05
    assert alone / 400 > 0.15 and together / 400 <= 0.03, "2.5 % are promised"


@pytest.mark.parametrize(
    "estimate",
    [
        cluster_mean(np.arange(30) / 7, np.arange(30) // 2, against=math.log(2)),
        cluster_rate(np.arange(40) % 3 > 0, np.arange(40) // 2, against=0.5),
        cluster_auroc(np.arange(40) % 7, np.arange(40) % 2 > 0, np.arange(40) // 2, against=0.75),
        cluster_difference(np.arange(40) % 3 > 0, np.arange(40) % 2 > 0, np.arange(40) // 2, against=(-0.1, 0.1)),
        Estimate.of_draws(np.arange(41)),
        Estimate.of_draws(np.arange(21)),
        Estimate.of_draws(np.arange(5), level=1),
    ],
    ids=["mean", "rate", "auroc", "band", "spread", "too few", "range"],
)
def test_an_estimate_comes_back_from_a_table(estimate: Estimate) -> None:
    import pandas as pd

    table = round_trip(pd.DataFrame([estimate.as_row(), cluster_mean([1.0, 2.0], [0, 1]).as_row()]))
    found = estimate_of(table.iloc[0])
    assert (found.n, found.clusters, found.level, found.kind) == (estimate.n, estimate.clusters, estimate.level, estimate.kind)
    assert [found.value, found.low, found.high] == pytest.approx([estimate.value, estimate.low, estimate.high], rel=1e-5, nan_ok=True)
    if estimate.against is not None:
        assert p_against(found, estimate.against) == pytest.approx(estimate.p, rel=1e-5), "six digits of the edge are enough"


def test_a_row_without_p_is_read_as_well() -> None:
    row = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 30, "clusters": 15.0}
    assert estimate_of(row) == Estimate(0.9, 0.8, 1.0, 30, 15)
    assert estimate_of({**row, "clusters": math.nan}).clusters is None


def test_the_record_holds_what_a_reader_needs_and_is_json() -> None:
    unbounded = Estimate(math.nan, 0.7, math.nan, 40, 20)
    record = claim_records([claim(estimate=unbounded), claim(id="d")], model="mini", dataset="bundled", scope="Only mini.")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["schema"] == 2
    found, other = record["claims"]
    assert found["estimate"] == {
        "value": None, "low": 0.7, "high": None, "n": 40, "clusters": 20, "level": 0.95, "p": None, "against": None, "kind": "interval",
    }  # fmt: skip
    assert (found["verdict"], found["p_holm"]) == ("undecided", None)
    assert (other["verdict"], other["kind"], other["p"], other["p_holm"], other["clusters_missing"]) == (
        "supported",
        "finding",
        0.001,
        0.001,
        0,
    )
    assert other["controls"][0]["kind"] == "null" and other["controls"][0]["estimate"]["kind"] == "spread"
    with pytest.raises(ValueError, match="distinct"):
        claim_records([claim(), claim()], model="mini", dataset="bundled", scope="")
