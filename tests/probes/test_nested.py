"""Probes of every width from one decomposition equal scikit-learn's, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from safesteer_interp.probes.controls import shuffled_labels
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.nested import fit_logistic, fit_nested
from safesteer_interp.probes.rows import Resampling, Rows
from safesteer_interp.probes.separation import WIDTHS, separability


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


def test_one_decomposition_per_site_and_fold_serves_every_width_and_labelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a layer sweep affordable, counted rather than timed."""
    calls = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda m: calls.append(m.shape) or eigh(m))
    states = np.random.default_rng(0).normal(size=(3, 80, 100))
    labels, pairs = np.tile([False, True], 40), np.repeat(np.arange(40), 2).astype(str)
    separability(Rows(states, labels, pairs), widths=WIDTHS, resampling=Resampling(20))
    assert calls == [(64, 64)] * 3 * 5
    calls.clear()
    shuffled_labels(Rows(states, labels, pairs), width="all", draws=10)
    assert len(calls) == 15
