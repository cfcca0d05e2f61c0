"""Separability, transfer and stability on states whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from support.probes import PAIRS, SITES, Layers

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.probes.controls import bag_of_words
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.folds import pair_folds, split_folds
from safesteer_interp.probes.nested import fold_scores
from safesteer_interp.probes.rows import Rows
from safesteer_interp.probes.separation import fold_stability, out_of_fold, separability, transfer


@pytest.fixture(scope="module")
def planted() -> Layers:
    return Layers()


def test_harm_is_separable_from_the_planted_site_on_and_not_before(planted: Layers) -> None:
    names = [f"resid_post.{i}" for i in range(SITES)]
    table = separability(Rows(planted.states, planted.labels, planted.pairs, planted.groups, names), widths=[1, 4, "all"])
    columns = ["site", "depth", "group", "width", "value", "low", "high", "n", "clusters", "p", "against", "kind"]
    assert list(table.columns) == columns
    assert len(table) == SITES * 2 * 3 and set(table.width) == {"1", "4", "all"}
    narrow = table[table.width == "4"]
    assert (narrow[narrow.depth >= 3].low > 0.95).all() and (narrow[narrow.depth < 3].value < 0.75).all()
    assert (table.n == 120).all() and (table.clusters == PAIRS).all() and (table.low <= table.value).all()


def test_out_of_fold_scores_equal_a_cross_validated_decoding_probe(planted: Layers) -> None:
    states, rows = planted.states[4], planted.groups == "CB"
    folds = pair_folds(planted.pairs[rows], 4)
    scores = out_of_fold(states[None, rows], planted.labels[rows], folds, widths=[4])[0, 0]
    for fold in range(4):
        probe = DecodingProbe().fit(states[rows][folds != fold], planted.labels[rows][folds != fold])
        np.testing.assert_allclose(scores[folds == fold], probe.decision_function(states[rows][folds == fold]), atol=2e-3)


def test_train_test_split_fits_on_train_and_scores_test_only(planted: Layers) -> None:
    train = np.isin(planted.pairs, [f"p{i}" for i in range(40)])
    table = separability(planted.rows(slice(4, 5), train=train))
    assert (table.n == 40).all() and (table.clusters == 20).all() and (table.value > 0.95).all()
    with pytest.raises(InputError, match='pair "p0" is in the train and the test split'):
        split_folds(np.arange(240) < 120, planted.pairs)


def test_a_leak_of_the_pair_would_be_seen() -> None:
    """Twins share a nuisance code and labels are random: a probe may know its own pair's code, never a new pair's."""
    rng = np.random.default_rng(5)
    pairs = np.repeat(np.arange(50), 6).astype(str)
    labels = np.repeat(rng.random(50) < 0.5, 6)
    states = np.repeat(rng.normal(size=(50, 60)), 6, axis=0) + 0.01 * rng.normal(size=(300, 60))
    held_out = separability(Rows(states, labels, pairs), widths=["all"])
    leaking = separability(Rows(states, labels, np.arange(300).astype(str)), widths=["all"])
    assert held_out.value[0] < 0.75 and leaking.value[0] > 0.95


def test_rows_without_the_read_are_left_out_and_counted(planted: Layers) -> None:
    states = planted.states[4:5].copy()
    states[0, :10] = np.nan
    table = separability(Rows(states, planted.labels, planted.pairs, planted.groups))
    assert table.n.tolist() == [110, 120] and table.value.min() > 0.9


def test_transfer_matrix_shows_the_reversed_direction_and_leaves_one_out(planted: Layers) -> None:
    table = transfer(planted.rows(slice(5, 6))).set_index(["fitted_on", "tested_on"])
    assert table.loc[("CB", "CB"), "low"] > 0.9 and table.loc[("SD", "SD"), "low"] > 0.9
    assert table.loc[("CB", "SD"), "high"] < 0.1 and table.loc[("all but CB", "CB"), "high"] < 0.1
    assert len(table) == 6
    np.testing.assert_allclose(table.loc[("all but SD", "SD"), "value"], table.loc[("CB", "SD"), "value"])
    same = transfer(planted.rows(slice(4, 5)), leave_one_out=False)
    assert (same.value > 0.95).all() and len(same) == 4


def test_fold_directions_agree_where_there_is_signal(planted: Layers) -> None:
    rows = planted.groups == "CB"
    table = fold_stability(Rows(planted.states[:, rows], planted.labels[rows], planted.pairs[rows]), widths=[1, 4])
    wide = table[table.width == "4"]
    assert wide[wide.depth >= 3].value.min() > 0.9 > wide[wide.depth < 3].value.max()
    assert (table.n == 10).all() and (table.low <= table.value).all() and (table.value <= table.high).all()


def test_bad_input_is_named(planted: Layers) -> None:
    states, labels, pairs, groups = planted.states, planted.labels, planted.pairs, planted.groups
    with pytest.raises(InputError, match='group "SD" has 0 harmful and 120 harmless'):
        separability(Rows(states, labels & (groups == "CB"), pairs, groups))
    with pytest.raises(InputError, match="`pairs` has 3 entries"):
        Rows(states, labels, pairs[:3])
    with pytest.raises(InputError, match="2 site names"):
        Rows(states, labels, pairs, sites=["a", "b"])
    with pytest.raises(UsageError, match="probe width 0"):
        separability(Rows(states, labels, pairs), widths=[0])
    with pytest.raises(UsageError, match="at one site, but the rows hold 6"):
        transfer(planted.rows())
    with pytest.raises(InputError, match="`texts` has 1 entries"):
        bag_of_words(["one"], planted.rows())
    with pytest.raises(InputError, match="one class"):
        fold_scores(states[0], labels[None].astype(float), np.where(labels, -1, 0))
