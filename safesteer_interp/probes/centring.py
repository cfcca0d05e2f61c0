"""StepCentring: the mean state of each decoding step, removed before a prompt-fitted probe scores generated tokens.

The paper's probe is fitted on prompt-final states but scores generated-token states, which are shifted as a whole
(out-of-distribution use; arXiv 2605.11716 eq. 5-6). Removing each step's own mean takes out that shift and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from safesteer_interp.errors import InputError


class StepCentring(TransformerMixin, BaseEstimator):
    """Subtracts from each state the mean of its decoding step (0 = prompt pass, k = the k-th generated token's pass).

    Attributes after `fit`: `steps_` [s] sorted int64, `means_` [s, d] float64, `counts_` [s] rows behind each mean.
    """

    def fit(self, X: Any, y: Any = None, steps: Any = None) -> StepCentring:
        """Mean of X [n, d] for every value of `steps` [n] (all 0 when not given)."""
        X = validate_data(self, X, dtype=np.float64)
        steps = _steps(steps, len(X))
        self.steps_, inverse, self.counts_ = np.unique(steps, return_inverse=True, return_counts=True)
        sums = np.zeros((len(self.steps_), X.shape[1]))
        np.add.at(sums, inverse, X)
        self.means_ = sums / self.counts_[:, None]
        return self

    def mean_at(self, step: int) -> np.ndarray:
        """Mean state [d] of a step. A step never seen takes the nearest earlier one, or the first one there is."""
        check_is_fitted(self)
        at = int(np.searchsorted(self.steps_, step, side="right")) - 1
        return np.asarray(self.means_[max(at, 0)])

    def transform(self, X: Any, steps: Any = None) -> np.ndarray:
        """X [n, d] minus the mean of each row's step (all 0 when `steps` is not given)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        steps = _steps(steps, len(X))
        at = np.clip(np.searchsorted(self.steps_, steps, side="right") - 1, 0, None)
        return np.asarray(X - self.means_[at])

    def to_state(self) -> dict[str, np.ndarray]:
        """The fitted numbers: steps, means and counts."""
        check_is_fitted(self)
        return {"steps": self.steps_.astype(np.int64), "means": self.means_, "counts": self.counts_.astype(np.int64)}

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray]) -> StepCentring:
        """The fitted centring that `to_state` described."""
        centring = cls()
        centring.steps_, centring.means_, centring.counts_ = tensors["steps"], tensors["means"], tensors["counts"]
        centring.n_features_in_ = centring.means_.shape[1]
        return centring


def _steps(steps: Any, n: int) -> np.ndarray:
    if steps is None:
        return np.zeros(n, dtype=np.int64)
    steps = np.asarray(steps, dtype=np.int64)
    if steps.shape != (n,):
        raise InputError(f"`steps` has shape {steps.shape} but there are {n} states; give one decoding step per state.")
    return steps
