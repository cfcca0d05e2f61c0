"""Rows: what is given is checked and named, groups and folds are taken whole."""

from __future__ import annotations

import numpy as np
import pytest
from support.probes import PAIRS, Layers

from safesteer_interp.errors import InputError
from safesteer_interp.probes.rows import Resampling, Rows


def test_groups_keep_their_order_and_everything_that_belongs_to_a_row() -> None:
    layers = Layers()
    train = np.isin(layers.pairs, ["p0", "p1"])
    rows = layers.rows(slice(2, 4), train=train, sites=("a", "b"))
    assert repr(rows) == f"Rows(240 requests of {PAIRS} pairs, 120 harmful; 2 sites, d = 40)"
    parts = dict(rows.by_group())
    assert list(parts) == ["CB", "SD"] and parts["SD"].names == ("a", "b")
    sd = layers.groups == "SD"
    np.testing.assert_array_equal(parts["SD"].states, layers.states[2:4, sd])
    np.testing.assert_array_equal(parts["SD"].train, train[sd])
    np.testing.assert_array_equal(parts["SD"].fold_array(), np.where(train[sd], -1, 0))
    assert set(parts["SD"].take(np.ones(120, dtype=bool)).pairs) == set(layers.pairs)


def test_one_site_and_plain_lists_are_taken() -> None:
    rows = Rows(np.zeros((4, 3)), np.array([0, 1, 0, 1], dtype=bool), np.array(["a", "a", "b", "b"]))
    assert rows.states.shape == (1, 4, 3) and rows.names == ("0",) and list(rows.masks()) == ["all"] and len(rows) == 4
    assert sorted(set(rows.fold_array(2, seed=1))) == [0, 1] and Resampling() == Resampling(1000, 0.95, 0)


def test_another_number_of_entries_is_named() -> None:
    states, labels, pairs = np.zeros((2, 4, 3)), np.array([0, 1, 0, 1], dtype=bool), np.array(["a", "a", "b", "b"])
    with pytest.raises(InputError, match="`groups` has 3 entries but there are states of 4 requests"):
        Rows(states, labels, pairs, np.array(["CB", "SD", "CB"]))
    with pytest.raises(InputError, match="1 site names were given for states of 2 sites"):
        Rows(states, labels, pairs, sites=["a"])
