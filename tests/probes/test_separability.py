"""Separability, onset, transfer and controls on states whose answer is known, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.probes.controls import bag_of_words, prompt_length, random_direction, rank_aurocs, shuffle_labels, shuffled_labels
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.folds import pair_folds, split_folds
from safesteer_interp.probes.nested import fit_logistic, fit_nested, fold_scores
from safesteer_interp.probes.onset import auroc_replicates, onset
from safesteer_interp.probes.separability import WIDTHS, fold_stability, out_of_fold, separability, transfer
from safesteer_interp.statistics import auroc, cluster_aurocs, cluster_weights

SITES, PAIRS, D = 6, 60, 40


class Planted:
    """Two attacks of 60 pairs at 6 sites; harm appears at site 3 on axis 0, reversed for attack "SD" at the last site."""

    def __init__(self, gap: float = 5.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.tile([False, True], 2 * PAIRS)
        self.pairs = np.tile(np.repeat([f"p{i}" for i in range(PAIRS)], 2), 2)
        self.groups = np.repeat(["CB", "SD"], 2 * PAIRS)
        self.states = 20 + rng.normal(size=(SITES, 4 * PAIRS, D))
        self.states[3:, self.labels, 0] += gap
        reversed_rows = self.labels & (self.groups == "SD")
        self.states[5, reversed_rows, 0] -= 2 * gap


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


def test_harm_is_separable_from_the_planted_site_on_and_not_before(planted: Planted) -> None:
    names = [f"resid_post.{i}" for i in range(SITES)]
    table = separability(planted.states, planted.labels, planted.pairs, planted.groups, sites=names, widths=[1, 4, "all"])
    assert list(table.columns) == ["site", "depth", "group", "width", "value", "low", "high", "n", "clusters"]
    assert len(table) == SITES * 2 * 3 and set(table.width) == {"1", "4", "all"}
    narrow = table[table.width == "4"]
    assert (narrow[narrow.depth >= 3].low > 0.95).all() and (narrow[narrow.depth < 3].value < 0.75).all()
    assert (table.n == 120).all() and (table.clusters == PAIRS).all() and (table.low <= table.value).all()


def test_one_decomposition_gives_the_probes_of_every_width() -> None:
    rng = np.random.default_rng(0)
    for n, d in ((60, 90), (200, 30)):  # both sides of the choice between the two moment matrices
        states = 5 + rng.normal(size=(n, d)) * np.geomspace(5, 0.05, d)
        labels = (states[:, 0] + rng.normal(size=n) > 5).astype(int)
        found = fit_nested(states, labels[None].astype(float), [1, 3, 8, None])
        for i, width in enumerate([1, 3, 8, None]):
            probe = DecodingProbe(width).fit(states, labels)
            np.testing.assert_allclose(found.scores(states)[i, 0], probe.decision_function(states), atol=2e-3)


def test_leading_components_alone_give_the_same_scores_as_the_full_decomposition() -> None:
    rng = np.random.default_rng(3)
    states = rng.normal(size=(120, 200)) * np.geomspace(5, 0.5, 200)
    labels = rng.integers(0, 2, (1, 120)).astype(float)
    few, full = fit_nested(states, labels, [2, 4]), fit_nested(states, labels, [2, 4, None])
    np.testing.assert_allclose(few.weights, full.weights[:2], atol=1e-6)
    np.testing.assert_array_equal(few.weights, fit_nested(states, labels, [2, 4]).weights)


def test_newton_finds_the_optimum_of_scikit_learn_for_many_labellings() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(80, 5)) * [30, 10, 3, 1, 0.1]
    labels = rng.integers(0, 2, (6, 80)).astype(float)
    labels[0] = features[:, 0] > 0  # separable: the penalty alone keeps the optimum finite
    weights, bias = fit_logistic(features, labels, C=0.7)
    for y, w, b in zip(labels, weights, bias, strict=True):
        model = LogisticRegression(C=0.7, solver="newton-cholesky", tol=1e-10, max_iter=1000).fit(features, y)
        np.testing.assert_allclose(w, model.coef_[0], rtol=1e-4, atol=1e-6)
        assert b == pytest.approx(model.intercept_[0], rel=1e-4, abs=1e-5)


def test_out_of_fold_scores_equal_a_cross_validated_decoding_probe(planted: Planted) -> None:
    states, rows = planted.states[4], planted.groups == "CB"
    folds = pair_folds(planted.pairs[rows], 4)
    scores = out_of_fold(states[None, rows], planted.labels[rows], folds, widths=[4])[0, 0]
    for fold in range(4):
        probe = DecodingProbe().fit(states[rows][folds != fold], planted.labels[rows][folds != fold])
        np.testing.assert_allclose(scores[folds == fold], probe.decision_function(states[rows][folds == fold]), atol=2e-3)


def test_folds_keep_pairs_whole_and_are_even() -> None:
    pairs = np.repeat([f"p{i}" for i in range(23)], 4)
    folds = pair_folds(pairs, 5, seed=2)
    assert all(len(set(folds[pairs == p])) == 1 for p in set(pairs))
    sizes = np.bincount(folds) // 4
    assert sizes.max() - sizes.min() <= 1 and set(folds) == set(range(5))
    np.testing.assert_array_equal(folds, pair_folds(pairs, 5, seed=2))
    assert (folds != pair_folds(pairs, 5, seed=3)).any()
    assert len(list(GroupKFold(5).split(pairs, groups=folds))) == 5
    with pytest.raises(InputError, match="as many pairs as folds"):
        pair_folds(pairs[:8], 5)


def test_train_test_split_fits_on_train_and_scores_test_only(planted: Planted) -> None:
    train = np.isin(planted.pairs, [f"p{i}" for i in range(40)])
    table = separability(planted.states[4:5], planted.labels, planted.pairs, planted.groups, train=train)
    assert (table.n == 40).all() and (table.clusters == 20).all() and (table.value > 0.95).all()
    with pytest.raises(InputError, match='pair "p0" is in the train and the test split'):
        split_folds(np.arange(240) < 120, planted.pairs)


def test_a_leak_of_the_pair_would_be_seen() -> None:
    """Twins share a nuisance code and labels are random: a probe may know its own pair's code, never a new pair's."""
    rng = np.random.default_rng(5)
    pairs = np.repeat(np.arange(50), 6).astype(str)
    labels = np.repeat(rng.random(50) < 0.5, 6)
    states = np.repeat(rng.normal(size=(50, 60)), 6, axis=0) + 0.01 * rng.normal(size=(300, 60))
    held_out = separability(states, labels, pairs, widths=["all"])
    leaking = separability(states, labels, np.arange(300).astype(str), widths=["all"])
    assert held_out.value[0] < 0.75 and leaking.value[0] > 0.95


def test_rows_without_the_read_are_left_out_and_counted(planted: Planted) -> None:
    states = planted.states[4:5].copy()
    states[0, :10] = np.nan
    table = separability(states, planted.labels, planted.pairs, planted.groups)
    assert table.n.tolist() == [110, 120] and table.value.min() > 0.9


def test_transfer_matrix_shows_the_reversed_direction_and_leaves_one_out(planted: Planted) -> None:
    table = transfer(planted.states[5], planted.labels, planted.pairs, planted.groups).set_index(["fitted_on", "tested_on"])
    assert table.loc[("CB", "CB"), "low"] > 0.9 and table.loc[("SD", "SD"), "low"] > 0.9
    assert table.loc[("CB", "SD"), "high"] < 0.1 and table.loc[("all but CB", "CB"), "high"] < 0.1
    assert len(table) == 6
    np.testing.assert_allclose(table.loc[("all but SD", "SD"), "value"], table.loc[("CB", "SD"), "value"])
    same = transfer(planted.states[4], planted.labels, planted.pairs, planted.groups, leave_one_out=False)
    assert (same.value > 0.95).all() and len(same) == 4


def test_fold_directions_agree_where_there_is_signal(planted: Planted) -> None:
    rows = planted.groups == "CB"
    table = fold_stability(planted.states[:, rows], planted.labels[rows], planted.pairs[rows], widths=[1, 4])
    wide = table[table.width == "4"]
    assert wide[wide.depth >= 3].value.min() > 0.9 > wide[wide.depth < 3].value.max()
    assert (table.n == 10).all() and (table.low <= table.value).all() and (table.value <= table.high).all()


def test_onset_is_the_planted_site_with_an_interval_around_it(planted: Planted) -> None:
    rows = planted.groups == "CB"
    labels, pairs = planted.labels[rows], planted.pairs[rows]
    scores = out_of_fold(planted.states[:, rows], labels, pair_folds(pairs))[:, 0]
    by_fraction, by_threshold = onset(scores, labels, pairs), onset(scores, labels, pairs, threshold=0.8)
    assert by_fraction.estimate.value == by_threshold.estimate.value == by_threshold.certain == 3
    assert (by_fraction.estimate.low, by_fraction.estimate.high) == (3, 3) and by_threshold.bar == 0.8
    never = onset(scores[:3], labels, pairs, threshold=0.9)
    assert np.isnan(never.estimate.value) and never.estimate.high == 3 and never.certain is None
    gradual = np.stack([s * labels + np.random.default_rng(0).normal(size=len(labels)) for s in (0, 0.6, 0.8, 1.0, 1.2, 3)])
    wide = onset(gradual, labels, pairs, threshold=0.7).estimate
    assert wide.low < wide.high and wide.low <= wide.value <= wide.high
    with pytest.raises(UsageError, match=r"threshold is 0\.4"):
        onset(scores, labels, pairs, threshold=0.4)
    with pytest.raises(UsageError, match="fraction is 0"):
        onset(scores, labels, pairs, fraction=0)


def test_onset_replicates_are_those_of_the_clustered_auroc() -> None:
    rng = np.random.default_rng(0)
    labels, pairs = np.tile([True, False], 20), np.repeat(np.arange(20), 2).astype(str)
    scores = rng.normal(size=(2, 40)).round(1) + labels
    draws = auroc_replicates(scores, labels, pairs, replicates=50, seed=4)
    for site, estimate in enumerate(cluster_aurocs(scores.T, labels, pairs, replicates=50, seed=4)):
        np.testing.assert_allclose([estimate.low, estimate.high], np.quantile(draws[site], [0.025, 0.975]))
    codes = np.unique(pairs, return_inverse=True)[1]
    index = np.repeat(np.arange(40), cluster_weights(20, 50, 4)[7][codes].astype(int))
    assert draws[0, 7] == pytest.approx(auroc(scores[0, index], labels[index]))


def test_shuffled_labels_and_random_directions_sit_at_chance(planted: Planted) -> None:
    arguments = (planted.states[3:5], planted.labels, planted.pairs, planted.groups)
    shuffled = shuffled_labels(*arguments, draws=30, sites=["a", "b"])
    assert (abs(shuffled.value - 0.5) < 0.06).all() and (shuffled.high < 0.75).all() and set(shuffled.control) == {"shuffled labels"}
    random = random_direction(*arguments, draws=100)
    assert (random.value < 0.85).all() and (random.value > 0.45).all()
    real = separability(*arguments)
    assert (real.low.to_numpy() > shuffled.high.to_numpy()).all() and (real.value.to_numpy() > random.high.to_numpy()).all()
    assert set(real.columns) < set(shuffled.columns) and list(random.columns) == list(shuffled.columns)


def test_shuffles_respect_the_design() -> None:
    labels = np.array([True, False] * 30 + [True] * 10 + [False] * 10)
    pairs = np.array([f"p{i // 2}" for i in range(60)] + [f"lone{i}" for i in range(20)])
    shuffled = shuffle_labels(labels, pairs, 50, seed=0)
    assert (shuffled[:, 0:60:2] != shuffled[:, 1:60:2]).all()
    assert (shuffled[:, 60:].sum(axis=1) == 10).all()
    assert 0.4 < shuffled[:, :60:2].mean() < 0.6 and len(np.unique(shuffled, axis=0)) == 50


def test_bag_of_words_reads_the_words_and_nothing_else(planted: Planted) -> None:
    cb = planted.groups == "CB"
    texts = [("how do I harm" if bad else "how do I grow") + f" item{i % 7}" if text else "describe the picture"
             for i, (bad, text) in enumerate(zip(planted.labels, cb, strict=True))]  # fmt: skip
    table = bag_of_words(texts, planted.labels, planted.pairs, planted.groups).set_index("group")
    assert table.loc["CB", "value"] == 1.0 and table.loc["SD", "value"] == 0.5 and (table.site == "").all()


def test_prompt_length_learns_its_sign_and_is_half_when_lengths_are_equal(planted: Planted) -> None:
    lengths = np.where(planted.groups == "CB", 30 - 5 * planted.labels + np.arange(240) % 3, 12)
    table = prompt_length(lengths, planted.labels, planted.pairs, planted.groups).set_index("group")
    assert table.loc["CB", "value"] == 1.0 and table.loc["SD", "value"] == 0.5


def test_rank_aurocs_equals_the_single_one() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(30, 4)).round(1), rng.random((30, 4)) < 0.5
    np.testing.assert_allclose(rank_aurocs(scores, labels), [auroc(s, y) for s, y in zip(scores.T, labels.T, strict=True)])


def test_bad_input_is_named(planted: Planted) -> None:
    states, labels, pairs, groups = planted.states, planted.labels, planted.pairs, planted.groups
    with pytest.raises(InputError, match='group "SD" has 0 harmful and 120 harmless'):
        separability(states, labels & (groups == "CB"), pairs, groups)
    with pytest.raises(InputError, match="`pairs` has 3 entries"):
        separability(states, labels, pairs[:3])
    with pytest.raises(InputError, match="2 site names"):
        separability(states, labels, pairs, sites=["a", "b"])
    with pytest.raises(UsageError, match="probe width 0"):
        separability(states, labels, pairs, widths=[0])
    with pytest.raises(InputError, match="one class"):
        fold_scores(states[0], labels[None].astype(float), np.where(labels, -1, 0))


def test_one_decomposition_per_site_and_fold_serves_every_width_and_labelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a layer sweep affordable, counted rather than timed."""
    calls = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda m: calls.append(m.shape) or eigh(m))
    states = np.random.default_rng(0).normal(size=(3, 80, 100))
    labels, pairs = np.tile([False, True], 40), np.repeat(np.arange(40), 2).astype(str)
    separability(states, labels, pairs, widths=WIDTHS, replicates=20)
    assert calls == [(64, 64)] * 3 * 5
    calls.clear()
    shuffled_labels(states, labels, pairs, width="all", draws=10)
    assert len(calls) == 15
