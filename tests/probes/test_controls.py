"""Controls sit at chance where there is nothing to find, and find what they should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support.probes import Layers

from safesteer_interp.probes import Rows, shuffled_maximum
from safesteer_interp.probes.controls import bag_of_words, prompt_length, random_direction, rank_aurocs, shuffle_labels, shuffled_labels
from safesteer_interp.probes.separation import separability
from safesteer_interp.statistics import auroc


@pytest.fixture(scope="module")
def planted() -> Layers:
    return Layers()


def test_shuffled_labels_and_random_directions_sit_at_chance(planted: Layers) -> None:
    rows = planted.rows(slice(3, 5))
    shuffled = shuffled_labels(rows, draws=39)
    assert (abs(shuffled.value - 0.5) < 0.06).all() and (shuffled.high < 0.75).all() and set(shuffled.control) == {"shuffled labels"}
    random = random_direction(rows, draws=100)
    assert (random.value < 0.85).all() and (random.value > 0.45).all()
    real = separability(rows)
    assert (real.low.to_numpy() > shuffled.high.to_numpy()).all() and (real.value.to_numpy() > random.high.to_numpy()).all()
    assert set(real.columns) < set(shuffled.columns) and list(random.columns) == list(shuffled.columns)


def test_shuffles_respect_the_design() -> None:
    labels = np.array([True, False] * 30 + [True] * 10 + [False] * 10)
    pairs = np.array([f"p{i // 2}" for i in range(60)] + [f"lone{i}" for i in range(20)])
    shuffled = shuffle_labels(labels, pairs, 50, seed=0)
    assert (shuffled[:, 0:60:2] != shuffled[:, 1:60:2]).all()
    assert (shuffled[:, 60:].sum(axis=1) == 10).all()
    assert 0.4 < shuffled[:, :60:2].mean() < 0.6 and len(np.unique(shuffled, axis=0)) == 50


def test_bag_of_words_reads_the_words_and_nothing_else(planted: Layers) -> None:
    cb = planted.groups == "CB"
    texts = [("how do I harm" if bad else "how do I grow") + f" item{i % 7}" if text else "describe the picture"
             for i, (bad, text) in enumerate(zip(planted.labels, cb, strict=True))]  # fmt: skip
    table = bag_of_words(texts, planted.rows()).set_index("group")
    assert table.loc["CB", "value"] == 1.0 and table.loc["SD", "value"] == 0.5 and (table.site == "").all()


def test_prompt_length_learns_its_sign_and_is_half_when_lengths_are_equal(planted: Layers) -> None:
    lengths = np.where(planted.groups == "CB", 30 - 5 * planted.labels + np.arange(240) % 3, 12)
    table = prompt_length(lengths, planted.rows()).set_index("group")
    assert table.loc["CB", "value"] == 1.0 and table.loc["SD", "value"] == 0.5


def test_rank_aurocs_equals_the_single_one() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(30, 4)).round(1), rng.random((30, 4)) < 0.5
    np.testing.assert_allclose(rank_aurocs(scores, labels), [auroc(s, y) for s, y in zip(scores.T, labels.T, strict=True)])


def test_the_null_of_the_best_site_is_the_best_of_every_shuffling() -> None:
    generator = np.random.default_rng(0)
    pairs = np.repeat([f"pair {i}" for i in range(30)], 2)
    rows = Rows(generator.normal(size=(6, 60, 8)).astype(np.float32), np.tile([True, False], 30), pairs)
    each = shuffled_labels(rows, draws=39)["value"]
    alone = [shuffled_maximum(replace(rows, states=rows.states[[site]], sites=None)).iloc[0]["value"] for site in range(6)]
    assert alone == pytest.approx(list(each)), "of one site it is that site's null"
    best = shuffled_maximum(rows).iloc[0]
    assert best["value"] > each.max() + 0.05 and best["low"] < best["value"] < best["high"], "choosing among sites finds more than chance"
