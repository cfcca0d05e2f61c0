"""Probes of every width from one decomposition: principal components are nested, so width 4 is the first 4 of width 16.

The same model as `DecodingProbe(width)` (principal components, then logistic regression with penalty |w|^2 / 2C), organised for sweeps
over layers, widths, folds and shuffled labels: one eigendecomposition per layer and fold serves all widths and all labellings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from scipy.special import expit

from safesteer_interp.errors import InputError


@dataclass(frozen=True)
class NestedFit:
    """Linear probes in the full space: score = (h - mean) . weights[w, b] + bias[w, b]."""

    mean: Float[np.ndarray, " d"]
    weights: Float[np.ndarray, "widths labellings d"]
    bias: Float[np.ndarray, "widths labellings"]

    def scores(self, states: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "widths labellings m"]:
        """Decision values of other states."""
        return np.asarray((states - self.mean) @ self.weights.swapaxes(1, 2) + self.bias[:, None]).swapaxes(1, 2)


def fit_nested(
    states: Float[np.ndarray, "n d"], labels: Float[np.ndarray, "labellings n"], widths: Sequence[int | None], C: float = 1.0
) -> NestedFit:
    """Fit one probe per width (None = the full space) and per labelling (rows of 0/1 labels) on the same states."""
    x = np.asarray(states, dtype=np.float64)
    mean = x.mean(axis=0)
    x = x - mean
    features, to_full = _principal(x, None if None in widths else max(w for w in widths if w is not None))
    weights = np.empty((len(widths), len(labels), x.shape[1]))
    bias = np.empty((len(widths), len(labels)))
    for i, width in enumerate(widths):
        k = features.shape[1] if width is None else min(width, features.shape[1])
        weight, bias[i] = fit_logistic(features[:, :k], labels, C)
        weights[i] = weight @ to_full[:k]
    return NestedFit(mean, weights, bias)


def _principal(x: np.ndarray, width: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, r] on the principal components in order, and the components [r, d]; r is the rank, or `width` if that is less.

    From the smaller of the n x n and d x d second-moment matrices: for n requests and d channels that is up to (d/n)^2 times
    cheaper than a full SVD.
    """
    n, d = x.shape
    moment = x @ x.T if n <= d else x.T @ x
    size = len(moment)
    if not moment.any():  # every state is the same, as before attention has moved anything to the last token
        return np.zeros((n, 0)), np.zeros((0, d))
    if width is not None and width < size // 8:
        # Only the leading components are wanted. The start vector is fixed so that results repeat to the bit, and random because
        # the obvious one, all ones, is in the null space of the Gram matrix of centred rows.
        values, vectors = eigsh(moment, k=width, v0=np.random.default_rng(0).standard_normal(size))
    else:
        values, vectors = np.linalg.eigh(moment)
    order = np.argsort(values)[::-1]
    order = order[values[order] > max(values.max(), 0) * size * np.finfo(np.float64).eps]
    if width is not None:
        order = order[:width]
    scale, vectors = np.sqrt(values[order]), vectors[:, order]
    if n <= d:
        return vectors * scale, (vectors / scale).T @ x
    return x @ vectors, vectors.T


def fit_logistic(
    features: Float[np.ndarray, "n k"], labels: Float[np.ndarray, "labellings n"], C: float = 1.0
) -> tuple[Float[np.ndarray, "labellings k"], Float[np.ndarray, " labellings"]]:
    """Penalised logistic regression for many labellings of the same features at once, by Newton's method with step halving.

    Minimises sum of log-losses + |w|^2 / 2C with a free intercept: the optimum of scikit-learn's LogisticRegression(C=C).
    """
    n, k = features.shape
    x = np.concatenate([features, np.ones((n, 1))], axis=1)
    penalty = np.concatenate([np.full(k, 1 / C), [0.0]])
    w = np.zeros((len(labels), k + 1))

    def loss(w: np.ndarray) -> np.ndarray:
        z = w @ x.T
        return np.asarray((np.logaddexp(0, z) - labels * z).sum(axis=1) + 0.5 * (w**2 * penalty).sum(axis=1))

    current = loss(w)
    for _ in range(100):
        p = expit(w @ x.T)
        gradient = (p - labels) @ x + w * penalty
        curvature = (x.T * (p * (1 - p))[:, None]) @ x
        # The intercept carries no penalty; where every row is already certain the floor keeps the system solvable.
        curvature[:, range(k + 1), range(k + 1)] += np.maximum(penalty, 1e-9)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        decrement = (gradient * step).sum(axis=1)
        if decrement.max() < 1e-9:
            break
        scale = np.ones(len(labels))
        for _ in range(30):
            trial = loss(w - scale[:, None] * step)
            worse = trial > current - 1e-4 * scale * decrement + 1e-12 * np.abs(current)
            if not worse.any():
                break
            scale[worse] /= 2
        w, current = w - scale[:, None] * step, trial
    return w[:, :k], w[:, k]


def fold_scores(
    states: Float[np.ndarray, "n d"],
    labels: Float[np.ndarray, "labellings n"],
    folds: np.ndarray,
    widths: Sequence[int | None] = (4,),
    *,
    fit_on: np.ndarray | None = None,
    C: float = 1.0,
) -> tuple[Float[np.ndarray, "widths labellings n"], Float[np.ndarray, "folds widths labellings d"]]:
    """Score every row of fold f >= 0 with probes fitted on the rows outside f (of those, only `fit_on` [n] bool when given).

    Rows with non-finite states (the read does not exist there) are neither used nor scored: NaN. Returns scores and the fold
    probes' weights. Raises InputError when a fold leaves one class only to fit on.
    """
    usable = np.isfinite(states).all(axis=1)
    fitting = usable if fit_on is None else usable & fit_on
    numbers = np.unique(folds[folds >= 0])
    scores = np.full((len(widths), len(labels), len(states)), np.nan)
    weights = np.empty((len(numbers), len(widths), len(labels), states.shape[1]))
    for i, fold in enumerate(numbers):
        train, test = fitting & (folds != fold), usable & (folds == fold)
        positives = labels[:, train].sum(axis=1)
        if not train.any() or positives.min() == 0 or positives.max() == train.sum():
            raise InputError(
                f"fold {fold} leaves {int(train.sum())} rows of one class to fit a probe on; give more pairs, fewer folds, or a group "
                "that has harmful and harmless requests."
            )
        fit = fit_nested(states[train], labels[:, train], widths, C)
        scores[..., test] = fit.scores(states[test].astype(np.float64))
        weights[i] = fit.weights
    return scores, weights
