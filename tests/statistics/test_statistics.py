"""Estimates equal scipy's and scikit-learn's where those have them, and do not depend on cores or order of columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn.metrics import roc_auc_score

from safesteer_interp import statistics as s
from safesteer_interp.errors import InputError


def pairs(n_pairs: int, effect: float, seed: int, rows_per_cell: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and pair ids; rows of a pair share a random offset."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_pairs), 2 * rows_per_cell)
    labels = np.tile(np.repeat([True, False], rows_per_cell), n_pairs)
    scores = rng.normal(size=n_pairs)[cluster] + rng.normal(size=len(cluster)) + effect * labels
    return scores, labels, cluster


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy_on_independent_data(method: str) -> None:
    x = np.random.default_rng(1).exponential(size=60)
    ours = s.cluster_bootstrap(np.mean, x, np.arange(60), replicates=6000, method=method)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=6000, method=method, rng=np.random.default_rng(2)).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.04 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.04 * width)


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 20), (10, 33), (20, 20)])
def test_wilson_equals_scipy(successes: int, n: int) -> None:
    ours, theirs = s.wilson(successes, n), stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == successes / n


@pytest.mark.parametrize(("successes", "groups"), [(3, 12), (12, 24), (45, 48), (900, 2000)])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_interval_of_a_rate_of_independent_clusters_is_wilsons_by_root_finding(successes: int, groups: int, rows: int) -> None:
    """Each bound is the p at which |rate - p| is t standard errors of G - 1 trials; rows that repeat a cluster's outcome add nothing."""
    hits = np.repeat(np.arange(groups) < successes, rows)
    found = s.cluster_rate(hits, np.repeat(np.arange(groups), rows))
    rate, t = successes / groups, stats.t.ppf(0.975, groups - 1)

    def beyond(p: float) -> float:
        return float(abs(rate - p) - t * np.sqrt(p * (1 - p) / (groups - 1)))

    bounds = optimize.brentq(beyond, 1e-9, rate), optimize.brentq(beyond, rate, 1 - 1e-9)
    assert (found.low, found.high) == pytest.approx(bounds, abs=1e-6) and found.value == rate
    plain = stats.binomtest(successes, groups).proportion_ci(method="wilson")
    if groups == 2000:  # t is nearly z, G - 1 nearly G
        assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=2e-5)
    assert plain.high - plain.low < found.high - found.low < 1.2 * (plain.high - plain.low)


@pytest.mark.parametrize("groups", [12, 30])
def test_a_rate_of_equal_outcomes_has_wilsons_bound_for_as_many_trials_as_clusters(groups: int) -> None:
    t = stats.t.ppf(0.975, groups - 1)
    found = s.cluster_rate(np.zeros(3 * groups), np.repeat(np.arange(groups), 3))
    assert (found.low, found.high) == (0.0, pytest.approx(t**2 / (groups + t**2), abs=1e-12))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auroc_equals_scikit_learn_and_mann_whitney(rows: list[tuple[int, bool]]) -> None:
    scores, labels = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if labels.all() or not labels.any():
        assert math.isnan(s.auroc(scores, labels))
        return
    assert s.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    u = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert s.auroc(scores, labels) == pytest.approx(u / (labels.sum() * (~labels).sum()), abs=1e-12)


def test_columns_are_independent_of_each_other() -> None:
    scores, labels, cluster = pairs(20, 1.0, 5)
    columns = np.stack([scores, -scores, scores**3], axis=1)
    together = s.cluster_aurocs(columns, labels, cluster)
    assert together == [s.cluster_auroc(c, labels, cluster) for c in columns.T]
    assert together[0].value == pytest.approx(1 - together[1].value)
    assert together[0] == together[2]  # monotone transformations change nothing


def test_perfect_separation_still_has_an_interval() -> None:
    labels, cluster = np.tile([True, False], 25), np.repeat(np.arange(25), 2)
    up = s.cluster_auroc(np.where(labels, 1.0, 0.0), labels, cluster)
    down = s.cluster_auroc(np.where(labels, 0.0, 1.0), labels, cluster)
    assert (up.value, up.high) == (1.0, 1.0) and 0.85 < up.low < 0.99
    assert (down.value, down.low, down.high) == (0.0, 0.0, pytest.approx(1 - up.low))
    assert s.wilson(0, 25).high < s.cluster_rate(np.zeros(50), cluster).high < 1.2 * s.wilson(0, 25).high, "t is a little wider than z"


def test_same_seed_same_interval_whatever_else_was_drawn() -> None:
    scores, labels, cluster = pairs(20, 1.0, 9)
    first = s.cluster_bootstrap(s.auroc, [scores, labels], cluster, seed=4)
    np.random.default_rng(0).random(100)
    s.cluster_weights.cache_clear()
    assert s.cluster_bootstrap(s.auroc, [scores, labels], cluster, seed=4) == first
    assert s.cluster_bootstrap(s.auroc, [scores, labels], cluster, seed=5) != first
    half = s.cluster_weights(20, 500, 4)
    assert (s.cluster_weights(20, 1000, 4)[:500] == half).all(), "replicate r must not depend on how many follow"


def test_fewer_than_two_clusters_give_nan_bounds() -> None:
    labels, one = np.array([True, False, True]), np.zeros(3)
    for estimate in (
        s.cluster_bootstrap(np.mean, [1.0, 2.0, 4.0], one),
        s.cluster_mean([1.0, 2.0, 4.0], one),
        s.cluster_rate([0, 0, 0], one),
        s.cluster_auroc([1.0, 2.0, 3.0], labels, one),
        s.paired_bootstrap(s.auroc, [[1.0, 2.0, 3.0], labels], [[3.0, 2.0, 1.0], labels], one),
    ):
        assert math.isnan(estimate.low) and math.isnan(estimate.high) and not math.isnan(estimate.value)
    assert "n/a" in str(estimate)


def test_paired_difference_is_tighter_than_two_intervals() -> None:
    scores, labels, cluster = pairs(60, 1.0, 11)
    other = scores + np.random.default_rng(1).normal(scale=0.2, size=len(scores)) - 0.3 * labels
    paired = s.paired_bootstrap(s.auroc, [scores, labels], [other, labels], cluster)
    assert paired.value == pytest.approx(s.auroc(scores, labels) - s.auroc(other, labels))
    apart = s.cluster_auroc(scores, labels, cluster)
    assert paired.high - paired.low < 0.7 * (apart.high - apart.low)
    assert paired.high < 0.1, "the other score separates better"


def test_a_mean_of_strata_does_not_take_their_sizes_for_noise() -> None:
    strata = np.repeat(["a", "b"], [5, 35])
    found = s.stratified_mean(np.ones(40), strata, np.arange(40), bounds=s.OUTCOME)
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.025 ** (1 / 40)), "the rule of three"
    assert math.isnan(s.stratified_mean(np.ones(40), strata, np.arange(40)).low), "no bounds, no interval"
    assert s.stratified_mean(np.repeat([1.0, 0.0], [5, 35]), strata, np.arange(40)).value == 0.5


def test_a_mean_of_one_stratum_is_a_mean_by_cluster_and_a_mean_of_two_has_the_textbook_error() -> None:
    rng = np.random.default_rng(4)
    x, clusters = rng.normal(size=40), np.arange(40) // 2
    whole, plain = s.stratified_mean(x, ["all"] * 40, clusters, against=0.2), s.cluster_mean(x, clusters, against=0.2)
    assert (whole.value, whole.low, whole.high, whole.p) == pytest.approx((plain.value, plain.low, plain.high, plain.p))
    strata = np.repeat([0, 1], [10, 30])
    found, parts = s.stratified_mean(x, strata, np.arange(40)), [x[:10], x[10:]]
    error = math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)) / 2
    freedom = (1 / 10 + 1 / 30) ** 2 / (1 / 10**2 / 9 + 1 / 30**2 / 29)
    assert found.value == pytest.approx(np.mean([part.mean() for part in parts]))
    assert (found.high - found.low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * error)
    weighed = x * 40 / (2 * np.where(strata == 0, 10, 30))
    assert found.p == s.cluster_mean(weighed, np.arange(40)).p, "the p is that of the weighted values' signs"
    with pytest.raises(InputError, match="need 40 strata"):
        s.stratified_mean(x, strata[:3], clusters)
    with pytest.raises(InputError, match="were said to lie within 0 to 1"):
        s.stratified_mean(x, strata, clusters, bounds=s.OUTCOME)


@pytest.mark.parametrize(
    ("rates", "sizes"), [((0.5, 0.5), (6, 30)), ((0.2, 0.9), (6, 30)), ((0.3, 0.8, 0.5), (12, 12, 12)), ((0.7, 0.7), (23, 1))]
)
def test_the_interval_of_a_mean_of_strata_covers(rates: tuple[float, ...], sizes: tuple[int, ...]) -> None:
    rng, strata = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    drawn = [(rng.random(len(strata)) < np.array(rates)[strata]).astype(float) for _ in range(400)]
    found = [s.stratified_mean(x, strata, np.arange(len(strata)), bounds=s.OUTCOME) for x in drawn]
    assert np.mean([e.low <= np.mean(rates) <= e.high for e in found]) >= 0.93


def test_draws_become_a_spread() -> None:
    draws = np.arange(101) / 100
    found = s.Estimate.of_draws(draws)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.01, 0.99)) and (found.n, found.clusters) == (101, 101)
    assert found.is_spread and str(found) == "0.50 [0.01, 0.99] (central 95 % of 101 draws)"
    assert (s.Estimate.of_draws([1.0, 3.0, 2.0], 0.5).low, s.Estimate.of_draws([1.0, 3.0, 2.0], 0.5).high) == (1.0, 3.0)
    assert (s.Estimate.of_draws([1.0, 3.0], level=1).low, s.Estimate.of_draws([1.0, 3.0], level=1).high) == (1.0, 3.0)


@pytest.mark.parametrize(("n", "rank"), [(39, 39), (40, 40), (50, 50), (78, 78), (79, 78), (200, 196), (999, 975)])
def test_the_bounds_of_a_spread_are_draws_beyond_which_one_more_lies_in_2_5_percent_at_the_most(n: int, rank: int) -> None:
    draws = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    found = s.Estimate.of_draws(draws)
    assert (found.low, found.high) == (n + 1 - rank, rank)
    assert (n + 1 - rank) / (n + 1) <= 0.025 + 1e-12 < (n + 2 - rank) / (n + 1), "and no farther out than that takes"


@pytest.mark.parametrize("n", [1, 8, 20, 38])
def test_fewer_than_39_draws_have_a_mean_and_a_range_and_no_central_95_percent(n: int) -> None:
    found = s.Estimate.of_draws(np.arange(n))
    assert found.value == (n - 1) / 2 and math.isnan(found.low) and math.isnan(found.high) and found.clusters == n
    assert s.Estimate.of_draws(np.arange(n), level=1).high == n - 1
    assert math.isnan(s.Estimate.of_draws(np.where(np.arange(39) < n, np.nan, 1.0)).low), "draws that are not defined do not count"


def test_one_more_draw_lies_beyond_the_bound_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    for n in (39, 50, 200):
        beyond = [rng.exponential() > s.Estimate.of_draws(rng.exponential(size=n)).high for _ in range(20_000)]
        assert np.mean(beyond) == pytest.approx((n + 1 - math.ceil(0.975 * (n + 1))) / (n + 1), abs=0.004) and np.mean(beyond) < 0.028


def test_permutation_test_agrees_with_scipy_on_independent_rows() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([True, False], 20)
    x = rng.normal(size=40) + 0.6 * labels

    def difference(values: np.ndarray, y: np.ndarray) -> float:
        return float(values[y].mean() - values[~y].mean())

    ours = s.permutation_test(difference, x, labels, np.arange(40), permutations=4999)
    theirs = stats.permutation_test(
        (x[labels], x[~labels]), lambda a, b: a.mean() - b.mean(), n_resamples=9999, rng=np.random.default_rng(0)
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.015)


def test_permutation_test_respects_pairs() -> None:
    """Under a null in which whole pairs vary together, p is uniform: about 5 % of runs fall below 0.05."""

    def auroc_gap(values: np.ndarray, y: np.ndarray) -> float:
        return float(values[y].mean() - values[~y].mean())

    found = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        twin = np.repeat(rng.normal(size=(15, 2)), 4, axis=1).ravel()  # four attacks repeat the twin's own value
        labels, cluster = np.tile(np.repeat([True, False], 4), 15), np.repeat(np.arange(15), 8)
        found.append(s.permutation_test(auroc_gap, twin, labels, cluster, permutations=99, seed=seed))
    assert np.mean(np.array(found) <= 0.05) < 0.12
    strong = s.permutation_test(auroc_gap, twin + 3 * labels, labels, cluster, permutations=199)
    assert strong <= 0.015


def test_sign_flip_test_agrees_with_scipy() -> None:
    x = np.random.default_rng(8).normal(0.4, 1, 25)
    theirs = stats.permutation_test((x,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)).pvalue
    assert s.sign_flip_test(x, np.arange(25)) == pytest.approx(theirs, abs=0.015)
    assert s.sign_flip_test(x, np.arange(25), alternative="greater") < s.sign_flip_test(x, np.arange(25), alternative="less")


def test_mcnemar_counts_only_disagreements() -> None:
    first, second = np.array([1, 1, 1, 1, 1, 1, 0, 0]), np.array([0, 0, 0, 0, 0, 0, 0, 0])
    assert s.mcnemar(first, second) == pytest.approx(2 * 0.5**6)
    assert s.mcnemar(first, first) == 1.0


def test_holm() -> None:
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = s.holm([0.5, np.nan, 0.9])
    assert adjusted[[0, 2]] == pytest.approx([1.0, 1.0]) and math.isnan(adjusted[1])


def test_missing_ids_and_nan_scores_are_refused() -> None:
    with pytest.raises(InputError, match="no cluster id"):
        s.cluster_mean([1.0, 2.0], ["a", None])
    with pytest.raises(InputError, match="cluster ids"):
        s.cluster_mean([1.0, 2.0], ["a"])
    with pytest.raises(InputError, match="NaN or infinite"):
        s.cluster_auroc([1.0, np.nan], [True, False], ["a", "b"])
    with pytest.raises(InputError, match="same rows"):
        s.paired_bootstrap(np.mean, [1.0, 2.0], [1.0], ["a", "b"])


def test_estimate_reads_well() -> None:
    estimate = s.Estimate(0.912, 0.884, 0.94, 200, 50)
    assert estimate.format() == "0.91 [0.88, 0.94]"
    assert str(estimate) == "0.91 [0.88, 0.94] (n = 200, 50 clusters)"
    row = estimate.as_row()
    assert math.isnan(row.pop("p")) and math.isnan(row.pop("against"))
    assert row == {"value": 0.912, "low": 0.884, "high": 0.94, "n": 200, "clusters": 50, "kind": "interval"}


def test_equal_values_give_no_interval_of_width_zero() -> None:
    cluster = np.arange(24)
    unbounded = s.cluster_mean(np.full(24, 0.4), cluster)
    assert unbounded.value == pytest.approx(0.4) and math.isnan(unbounded.low) and math.isnan(unbounded.high)
    same = s.cluster_difference(np.ones(24), np.ones(24), cluster)
    missed = 1 - 0.025 ** (1 / 24)
    assert (same.value, same.low, same.high, same.p) == (0.0, pytest.approx(-missed), pytest.approx(missed), 1.0)
    all_ = s.cluster_difference(np.ones(24), np.zeros(24), cluster)
    assert (all_.value, all_.high) == (1.0, 1.0) and all_.low == pytest.approx(1 - 2 * missed) and all_.p is not None and all_.p < 0.001
    flags = s.cluster_mean(np.ones(24, dtype=bool), cluster)
    assert flags.low == pytest.approx(1 - missed), "yes or no is bounded without being told"
    assert math.isnan(s.cluster_bootstrap(np.mean, np.ones(24), cluster).low)
    with pytest.raises(InputError, match="were said to lie within"):
        s.cluster_mean([0.0, 2.0], [0, 1], bounds=s.OUTCOME)


def test_the_mean_has_the_interval_and_p_of_a_t_test_and_signs_flip_about_the_edge() -> None:
    x, cluster = np.random.default_rng(5).normal(0.3, 1, 30), np.arange(30)
    found, theirs = s.cluster_mean(x, cluster, against=0.3), stats.ttest_1samp(x, 0.3)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval(0.95))
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.p == s.sign_flip_test(x - 0.3, cluster)
    band = s.cluster_mean(x, cluster, against=(-1.0, 1.5))
    assert band.p == max(s.sign_flip_test(x + 1.0, cluster), s.sign_flip_test(x - 1.5, cluster))


def test_rows_of_a_cluster_count_once() -> None:
    x = np.random.default_rng(5).normal(0.3, 1, 30)
    once, copied = s.cluster_mean(x, np.arange(30)), s.cluster_mean(np.repeat(x, 4), np.repeat(np.arange(30), 4))
    assert (copied.low, copied.high, copied.p, copied.n, copied.clusters) == (
        pytest.approx(once.low), pytest.approx(once.high), pytest.approx(once.p), 120, 30,
    )  # fmt: skip
    hits = x > 0
    one, four = s.cluster_rate(hits, np.arange(30)), s.cluster_rate(np.repeat(hits, 4), np.repeat(np.arange(30), 4))
    assert (four.low, four.high) == pytest.approx((one.low, one.high))
    labels, apart = np.arange(60) % 2 == 0, np.arange(60) // 2
    scores = np.random.default_rng(6).normal(size=60) + labels
    single = s.cluster_auroc(scores, labels, apart)
    double = s.cluster_auroc(np.repeat(scores, 2), np.repeat(labels, 2), np.repeat(apart, 2))
    assert (double.low, double.high, double.p) == pytest.approx((single.low, single.high, single.p), abs=0.005)


@pytest.mark.parametrize("edge", [0.3, 0.5, 0.8])
def test_p_and_interval_of_rates_and_aurocs_agree_at_the_bounds(edge: float) -> None:
    hits, cluster = np.arange(60) % 5 > 1, np.arange(60) // 2
    rate = s.cluster_rate(hits, cluster, against=edge)
    assert s.cluster_rate(hits, cluster, against=rate.low).p == pytest.approx(0.05, abs=1e-6)
    assert (rate.p < 0.05) == (not rate.low <= edge <= rate.high)
    scores, labels, twins = pairs(30, 1.0, 2)
    area = s.cluster_auroc(scores, labels, twins, against=edge)
    assert s.cluster_auroc(scores, labels, twins, against=area.high).p == pytest.approx(0.05, abs=1e-6)
    assert (area.p < 0.05) == (not area.low <= edge <= area.high)


def test_the_p_of_an_auroc_against_chance_swaps_labels_within_pairs() -> None:
    scores, labels, cluster = pairs(20, 0.4, 1)
    swapped = s.permutation_test(s.auroc, scores, labels, cluster, permutations=1999)
    assert s.cluster_auroc(scores, labels, cluster).p == pytest.approx(swapped, abs=1e-9)


def test_a_difference_of_aurocs_is_paired() -> None:
    scores, labels, cluster = pairs(40, 1.0, 11)
    other = scores + np.random.default_rng(1).normal(scale=0.2, size=len(scores)) - 0.3 * labels
    found = s.cluster_auroc_difference(scores, other, labels, cluster)
    drawn = s.paired_bootstrap(s.auroc, [scores, labels], [other, labels], cluster)
    assert found.value == pytest.approx(drawn.value) and (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.02)
    assert found.p is not None and found.p < 0.01
    same = s.cluster_auroc_difference(scores, scores, labels, cluster)
    assert same.value == 0 and same.p == 1.0 and same.low < 0 < same.high


def test_the_jackknife_takes_the_bias_off_and_lies_in_the_middle_of_its_interval() -> None:
    def squared(x: np.ndarray) -> float:
        return float(x.mean() ** 2)

    rng, truth, plain, found = np.random.default_rng(0), 0.25, [], []
    for _ in range(300):
        x = rng.normal(0.5, 1, 20)
        plain.append(squared(x))
        found.append(s.cluster_jackknife(squared, x, np.arange(20), against=truth))
    assert abs(np.mean([e.value for e in found]) - truth) < 0.02 < np.mean(plain) - truth
    assert all(e.low < e.value < e.high for e in found)
    mean = s.cluster_jackknife(np.mean, x, np.arange(20))
    assert mean.value == pytest.approx(x.mean()) and (mean.low, mean.high) == pytest.approx(
        (s.cluster_mean(x, np.arange(20)).low, s.cluster_mean(x, np.arange(20)).high)
    )
    assert math.isnan(s.cluster_jackknife(lambda x: math.nan, x, np.arange(20)).low)


def test_expanded_percentiles_are_wider_with_few_clusters_and_hold_the_estimate() -> None:
    x = np.random.default_rng(3).normal(size=8)
    wide, narrow = (s.cluster_bootstrap(np.mean, x, np.arange(8), method=m) for m in ("expanded", "percentile"))
    assert 1.1 < (wide.high - wide.low) / (narrow.high - narrow.low) < 1.6
    longest = s.cluster_bootstrap(lambda v: float(np.linalg.norm(v.mean(0))), np.random.default_rng(4).normal(size=(12, 50)), np.arange(12))
    assert longest.low < longest.value < longest.high, (
        "every resample of noise is longer than the sample, the interval holds it all the same"
    )


def test_units_change_everything_but_p() -> None:
    found = s.cluster_mean([1.0, 2.0, 4.0], [0, 1, 2], against=(0.0, 1.0)).scaled(-2.0)
    assert (found.value, found.against) == (pytest.approx(-14 / 3), (-2.0, 0.0)) and found.low < found.value < found.high


def test_signs_are_enumerated_where_there_are_few() -> None:
    assert s.sign_flip_test(np.ones(6), np.arange(6)) == pytest.approx(2 / 64)
    assert s.sign_flip_test(np.ones(12), np.arange(12)) == pytest.approx(2 / 4096)
    assert s.sign_flip_test(np.zeros(6), np.arange(6)) == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_an_auroc_of_twins_that_score_alike_is_chance_with_an_interval(seed: int) -> None:
    """Their influences differ from zero by rounding only, which no variance can be divided by."""
    pairs = np.repeat(np.arange(33), 2)
    lengths = np.random.default_rng(seed).integers(20, 40, 33).repeat(2).astype(float)
    found = s.cluster_auroc(lengths, np.tile([True, False], 33), pairs, against=0.5)
    assert found.value == pytest.approx(0.5) and 0.3 < found.low < 0.5 < found.high < 0.7
