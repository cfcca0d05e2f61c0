"""Intervals cover what they promise, equal scipy's where scipy has them, and do not depend on cores or order of columns."""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
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


def covers(estimate: s.Estimate, truth: float) -> bool:
    return estimate.low <= truth <= estimate.high


def test_coverage_of_the_nominal_95_percent_interval() -> None:
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(40), 5)
    hits_cluster, hits_rows, runs = 0, 0, 600
    for _ in range(runs):
        x = rng.normal(size=40)[cluster] + rng.normal(size=200)
        hits_cluster += covers(s.cluster_mean(x, cluster, replicates=400), 0.0)
        hits_rows += covers(s.cluster_mean(x, np.arange(200), replicates=400), 0.0)
    assert 0.91 <= hits_cluster / runs <= 0.975
    assert hits_rows / runs < 0.8, "resampling rows that share a pair must be seen to be overconfident"


def test_coverage_of_the_auroc_interval() -> None:
    truth = float(stats.norm.cdf(1.5 / 2))  # each score is N(0, 2), so the difference of two clusters' rows is N(effect, 4)
    runs = 300
    hits = sum(covers(s.cluster_auroc(*pairs(60, 1.5, seed), replicates=300), truth) for seed in range(runs))
    assert 0.90 <= hits / runs <= 0.985


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


def test_fast_auroc_is_the_bootstrap_of_auroc() -> None:
    scores, labels, cluster = pairs(30, 1.0, 3)
    scores = scores.round(1)  # ties
    fast = s.cluster_auroc(scores, labels, cluster, replicates=300)
    assert fast == s.cluster_auroc(scores, labels, pd.Series([f"pair-{c:03}" for c in cluster]), replicates=300)
    slow = s.cluster_bootstrap(s.auroc, [scores, labels], cluster, replicates=300)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), abs=1e-12)
    assert (fast.n, fast.clusters) == (120, 30)


@pytest.mark.speed
def test_fast_auroc_takes_less_than_150_ms_for_1000_replicates_of_200_rows() -> None:
    scores, labels, cluster = pairs(50, 1.0, 3)
    s.cluster_auroc(scores, labels, cluster)
    best = math.inf
    for _ in range(5):
        start = time.process_time()  # a busy machine must not fail it
        s.cluster_auroc(scores, labels, cluster)
        best = min(best, time.process_time() - start)
    assert best < 0.15


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
    assert s.cluster_rate(np.zeros(50), cluster).high == pytest.approx(s.wilson(0, 25).high)


def test_rate_of_mixed_outcomes_is_the_cluster_mean() -> None:
    outcomes, cluster = np.arange(40) % 3 == 0, np.arange(40) // 2
    assert s.cluster_rate(outcomes, cluster) == s.cluster_mean(outcomes, cluster)


def test_same_seed_same_interval_whatever_else_was_drawn() -> None:
    scores, labels, cluster = pairs(20, 1.0, 9)
    first = s.cluster_auroc(scores, labels, cluster, seed=4)
    np.random.default_rng(0).random(100)
    s.cluster_weights.cache_clear()
    assert s.cluster_auroc(scores, labels, cluster, seed=4) == first
    assert s.cluster_auroc(scores, labels, cluster, seed=5) != first
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


def test_draws_become_a_spread() -> None:
    draws = np.arange(101) / 100
    found = s.Estimate.of_draws(draws)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.025, 0.975)) and (found.n, found.clusters) == (101, 101)
    assert (s.Estimate.of_draws([1.0, 3.0], 0.5).low, s.Estimate.of_draws([1.0, 3.0], 0.5).high) == (1.5, 2.5)


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
    assert estimate.as_row() == {"value": 0.912, "low": 0.884, "high": 0.94, "n": 200, "clusters": 50}
