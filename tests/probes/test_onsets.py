"""The first layer at which harm is readable, with an interval over pairs."""

from __future__ import annotations

import numpy as np
import pytest
from support.probes import Layers

from safesteer_interp.errors import UsageError
from safesteer_interp.probes.folds import pair_folds
from safesteer_interp.probes.onsets import auroc_replicates, onset
from safesteer_interp.probes.rows import Resampling
from safesteer_interp.probes.separation import out_of_fold
from safesteer_interp.statistics import auroc, cluster_weights


@pytest.fixture(scope="module")
def planted() -> Layers:
    return Layers()


def test_onset_is_the_planted_site_with_an_interval_around_it(planted: Layers) -> None:
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


def test_onset_replicates_are_aurocs_of_resampled_pairs() -> None:
    rng = np.random.default_rng(0)
    labels, pairs = np.tile([True, False], 20), np.repeat(np.arange(20), 2).astype(str)
    scores = rng.normal(size=(2, 40)).round(1) + labels
    draws = auroc_replicates(scores, labels, pairs, Resampling(50, seed=4))
    codes = np.unique(pairs, return_inverse=True)[1]
    index = np.repeat(np.arange(40), cluster_weights(20, 50, 4)[7][codes].astype(int))
    assert draws[0, 7] == pytest.approx(auroc(scores[0, index], labels[index]))
