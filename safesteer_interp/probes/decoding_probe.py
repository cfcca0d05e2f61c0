"""DecodingProbe: SafeSteer's probe (arXiv 2605.11716 eq. 1-6) as a scikit-learn estimator.

PCA to 4 components, then logistic regression, label 1 = harmful: s(h) = W C^T (h - m) + b. Nothing is standardised, as in the paper.
The same probe scores prompts (is this request harmful?) and, while decoding, candidate tokens (which one leads to a refusal?).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.files import read_tensors, write_tensors
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.centring import StepCentring
from safesteer_interp.probes.rds import fit_rds
from safesteer_interp.probes.signs import SignTest
from safesteer_interp.sites import Read, Site
from safesteer_interp.tracing.origin import Origin

Fit = Literal["prompt", "centred", "token", "contrastive"]
CURVES_ONLY = ("centred",)
"""Fits that show a curve and may not guide: taking one vector per step from every candidate changes no choice among them."""
SOLVERS = ("lbfgs", "rds")
KIND = "safesteer-probe/1"


class DecodingProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on the first principal components of hidden states.

    Parameters: `n_components` (4 in the paper; None or "all" keeps the full space; more than the data allow is cut to what they
    allow), `solver` ("lbfgs": scikit-learn's, penalty 1/(2C); "rds": AdamW of arXiv 2410.06809, no penalty but weight decay, stops
    early), `C`, `learning_rate` and `max_epochs` (rds only), `random_state` (initial weights of rds).

    Attributes after `fit` (float64): `mean_` [d], `components_` [k, d] or None, `coef_` [1, k], `intercept_` [1], `weight_` [d] (the
    same function in the full space), `direction_` [d] (`weight_` as a unit vector, towards harmful), `loss_curve_` (mean binary
    cross-entropy in nats per epoch; one final value for lbfgs), `classes_`. `fit_` says which of the four fits it is,
    `origin_` what it belongs to, `sign_test_` what the sign test found (None: not run), `spread_` the standard deviation of its scores
    among the candidates of one step (None: not measured), `centring_` the step means of the `centred` fit; `probes/fits.py` sets them.
    The direction hardly depends on the solver, the scale of s does: compare doses in units of `spread_`.
    """

    def __init__(
        self,
        n_components: Any = 4,
        *,
        solver: Any = "lbfgs",
        C: Any = 1.0,
        learning_rate: Any = 1e-3,
        max_epochs: Any = 10_000,
        random_state: Any = 42,
    ) -> None:
        # scikit-learn's convention: parameters are stored as given (cloning and grid search rely on it) and checked in `fit`.
        self.n_components = n_components
        self.solver = solver
        self.C = C
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.random_state = random_state

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        """As scikit-learn writes it, and what it was fitted on where it was."""
        if not hasattr(self, "origin_"):
            return super().__repr__(N_CHAR_MAX)
        where = f"{self.origin_.site or 'no site'} of {self.origin_.model or 'no model'}"
        return f"{super().__repr__(N_CHAR_MAX)} <{self.fit_} fit at {where}, d = {len(self.weight_)}>"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X: Any, y: Any) -> DecodingProbe:
        """Fit on states X [n, d] and labels y [n] (1 = harmful). Raises ValueError for other than two classes or NaN states."""
        if self.solver not in SOLVERS:
            raise UsageError(f'solver "{self.solver}" of the probe is unknown; expected one of {", ".join(SOLVERS)}.')
        width = component_count(self.n_components)
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) > 2:
            found = type_of_target(y, input_name="y")
            raise ValueError(f"Only binary classification is supported. The type of the target is {found}.")
        if len(self.classes_) < 2:
            raise ValueError("The probe needs both a harmful and a harmless class, but the labels hold one class only.")
        self.mean_ = X.mean(axis=0)
        self.components_: np.ndarray | None = None
        features = X - self.mean_
        if width is not None:
            pca = PCA(min(width, *X.shape), svd_solver="full").fit(X)
            self.components_ = pca.components_
            self.explained_variance_ratio_ = pca.explained_variance_ratio_
            features = features @ self.components_.T
        weight, bias = self._fit_linear(features, codes)
        self.coef_, self.intercept_ = weight[None], np.array([bias])
        self._span()
        self.fit_: Fit = "prompt"
        self.origin_ = Origin()
        self.sign_test_: SignTest | None = None
        self.spread_: float | None = None
        self.centring_: StepCentring | None = None
        return self

    def random_directions(self, n: int, seed: int = 0) -> np.ndarray:
        """[n, d] float64 unit vectors drawn within the probe's own components (the whole space where it has none): what chance can do
        that reads the same few dimensions."""
        check_is_fitted(self)
        drawn = np.random.default_rng(np.random.SeedSequence(seed)).standard_normal((n, self.coef_.shape[1]))
        spanned = drawn if self.components_ is None else drawn @ self.components_
        return np.asarray(spanned / np.linalg.norm(spanned, axis=1, keepdims=True))

    def _span(self) -> None:
        """The fitted function in the full space: `weight_` and, as a unit vector, `direction_`."""
        weight = self.coef_[0]
        self.weight_ = weight if self.components_ is None else weight @ self.components_
        norm = np.linalg.norm(self.weight_)
        self.direction_ = self.weight_ / norm if norm > 0 else self.weight_

    def _fit_linear(self, features: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, float]:
        if self.solver == "rds":
            found = fit_rds(
                features, codes.astype(np.float64), learning_rate=self.learning_rate, max_epochs=self.max_epochs, seed=self.random_state
            )  # fmt: skip
            self.loss_curve_ = found.losses
            return found.weight, found.bias
        model = LogisticRegression(C=self.C, tol=1e-7, max_iter=10_000).fit(features, codes)
        weight, bias = model.coef_[0], float(model.intercept_[0])
        logits = features @ weight + bias
        self.loss_curve_ = np.array([-log_expit(np.where(codes == 1, logits, -logits)).mean()])
        return weight, bias

    def decision_function(self, X: Any) -> np.ndarray:
        """Score s [n] = W C^T (h - m) + b of states X [n, d]: log-odds of harmful, as at step 0."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.asarray((X - self.mean_) @ self.weight_ + self.intercept_[0])

    def decision_at(self, X: Any, steps: Any) -> np.ndarray:
        """Score s [n] of states X [n, d] taken at decoding steps `steps` [n]; differs from step 0 only for the `centred` fit."""
        check_is_fitted(self)
        if self.centring_ is None:
            return self.decision_function(X)
        return np.asarray(self.centring_.transform(X, steps=steps) @ self.weight_ + self.intercept_[0])

    def predict(self, X: Any) -> np.ndarray:
        """The class [n] of each state: `classes_[1]` (harmful) where the score is above 0."""
        harmful = self.decision_function(X) > 0
        return np.asarray(self.classes_[harmful.astype(int)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [n, 2] of harmless and harmful."""
        harmful = expit(self.decision_function(X))
        return np.stack([1 - harmful, harmful], axis=1)

    def score_tensor(self, h: Float[Tensor, "*shape d"], step: int = 0) -> Float[Tensor, "*shape"]:
        """Scores of states at one decoding step, float32 on their own device; any leading shape (batch, K candidates).

        Raises UsageError when the states have another width than the probe.
        """
        check_is_fitted(self)
        if h.shape[-1] != len(self.weight_):
            raise UsageError(f"the probe was fitted on states of width {len(self.weight_)} but got width {h.shape[-1]}.")
        weight, mean = self._tensors(h.device, step)
        # The mean is subtracted before the product: residual streams share a large mean, and the difference of two large
        # products would lose float32 digits.
        return (h.float() - mean) @ weight + float(self.intercept_[0])

    def _tensors(self, device: torch.device, step: int) -> tuple[Tensor, Tensor]:
        mean = self.mean_ if self.centring_ is None else self.centring_.mean_at(step)
        return tuple(torch.as_tensor(x, dtype=torch.float32, device=device) for x in (self.weight_, mean))  # type: ignore[return-value]

    def guard(self, mllm: MLLM | None = None, site: Site | str | None = None, read: Read | str | None = None) -> None:
        """Raise UsageError, naming both, when the probe was fitted on another model, chat template, site or read."""
        check_is_fitted(self)
        if mllm is not None and mllm.width != len(self.weight_):
            raise UsageError(
                f'the probe was fitted on "{self.origin_.model}" of width {len(self.weight_)} but "{mllm.name}" has width {mllm.width}; '
                "fit it again."
            )
        self.origin_.guard("probe", mllm, site, read)

    def require_sign(self, force: bool = False) -> None:
        """Raise UsageError unless the sign test was run and passed; `force=True` lets a failing probe guide decoding anyway.

        The `centred` fit never may: it would guide exactly as the prompt fit does.
        """
        check_is_fitted(self)
        check_guides(self.fit_)
        if force or (self.sign_test_ is not None and self.sign_test_.passed):
            return
        if self.sign_test_ is None:
            raise UsageError(
                "the probe's sign test has not been run, so it may not guide decoding; give labelled candidates of held-out requests to "
                "its fit (decoding/rollouts.py measures them), or force it."
            )
        raise UsageError(
            f"the probe failed its sign test and may not guide decoding: {self.sign_test_.sentence()}. Guiding with it could "
            'promote compliance; try the "token" or "contrastive" fit, or force it to measure what happens.'
        )

    def to_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What a fitted probe is, as tensors and a JSON-able record; `from_state` is the inverse."""
        check_is_fitted(self)
        tensors: dict[str, np.ndarray] = {
            "mean": self.mean_,
            "coef": self.coef_,
            "intercept": self.intercept_,
            "loss_curve": np.asarray(self.loss_curve_, dtype=np.float64),
        }
        if self.components_ is not None:
            tensors["components"] = self.components_
        if self.centring_ is not None:
            tensors |= {f"centring.{name}": values for name, values in self.centring_.to_state().items()}
        return tensors, {
            "parameters": self.get_params(),
            "classes": self.classes_.tolist(),
            "fit": self.fit_,
            "origin": self.origin_.to_dict(),
            "sign_test": self.sign_test_.to_dict() if self.sign_test_ else None,
            "spread": self.spread_,
        }

    @classmethod
    def from_state(cls, tensors: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> DecodingProbe:
        """The fitted probe that `to_state` described."""
        probe = cls(**record["parameters"])
        probe.mean_, probe.coef_, probe.intercept_ = tensors["mean"], tensors["coef"], tensors["intercept"]
        probe.components_, probe.loss_curve_ = tensors.get("components"), tensors["loss_curve"]
        probe.classes_, probe.n_features_in_ = np.asarray(record["classes"]), len(probe.mean_)
        probe._span()
        probe.fit_, probe.origin_ = record["fit"], Origin.from_dict(record["origin"])
        probe.sign_test_, probe.spread_ = SignTest.from_dict(record["sign_test"]), record.get("spread")
        centring = {name.removeprefix("centring."): x for name, x in tensors.items() if name.startswith("centring.")}
        probe.centring_ = StepCentring.from_state(centring) if centring else None
        return probe

    def save(self, path: Path | str) -> Path:
        """Write one safetensors file (numbers, and everything else in its metadata); returns its path."""
        tensors, record = self.to_state()
        return write_tensors(path, tensors, record, kind=KIND)

    @classmethod
    def load(cls, path: Path | str) -> DecodingProbe:
        """Read what `save` wrote. Raises InputError when the file is missing, damaged or of another kind."""
        return cls.from_state(*read_tensors(path, KIND))


def check_guides(fit: str) -> None:
    """Raise UsageError for a fit that may not guide decoding."""
    if fit in CURVES_ONLY:
        raise UsageError(
            f'the "{fit}" fit may not guide decoding: it takes one and the same vector from all candidates of a step, so that it would '
            'choose exactly as the "prompt" fit does; guide with "prompt", "token" or "contrastive".'
        )


def component_count(n_components: Any) -> int | None:
    """Number of principal components, None for the full space. Raises UsageError for anything but None, "all" or an int >= 1."""
    if n_components is None or n_components == "all":
        return None
    if isinstance(n_components, (int, np.integer)) and not isinstance(n_components, bool) and n_components >= 1:
        return int(n_components)
    raise UsageError(f'probe width {n_components!r} is not valid; expected a whole number of components from 1, or "all".')
