"""Bootstrap of a mean difference: intervals of its norm, of its cosine with a direction, and of how well single pairs agree.

Resampling never touches the d channels: every replicate is a row of coefficients over the n states, and norms and cosines follow from
the n x n Gram matrix.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from safesteer_interp.errors import InputError
from safesteer_interp.statistics import Estimate, cluster_codes, cluster_weights, expanded, from_jackknife


class DifferenceBootstrap:
    """Resamples of mean(first rows) - mean(other rows), drawing whole pairs."""

    def __init__(
        self,
        states: Float[np.ndarray, "n d"],
        first: Bool[np.ndarray, " n"],
        pairs: np.ndarray,
        *,
        replicates: int = 1000,
        seed: int = 0,
        level: float = 0.95,
    ) -> None:
        self.first = np.asarray(first, dtype=bool)
        if self.first.all() or not self.first.any():
            raise InputError(f"a mean difference needs rows on both sides but got {int(self.first.sum())} and {int((~self.first).sum())}.")
        exact = np.asarray(states, dtype=np.float64)
        # Coefficients sum to 0, so the common mean cancels; taking it out first keeps the digits.
        self.rows = exact - exact.mean(axis=0)
        self.codes, self.clusters = cluster_codes(pairs, len(self.rows))
        codes, self.level, self.seed = self.codes, level, seed
        weights = cluster_weights(self.clusters, replicates, seed)[:, codes]
        total = np.stack([weights @ self.first, weights @ ~self.first], axis=1)
        self.defined = (total > 0).all(axis=1)
        share = weights[self.defined] / np.where(self.first, total[self.defined, :1], total[self.defined, 1:])
        self.coefficients = np.where(self.first, share, -share)
        self.observed = np.where(self.first, 1 / self.first.sum(), -1 / (~self.first).sum())

    @cached_property
    def gram(self) -> np.ndarray:
        return np.asarray(self.rows @ self.rows.T)

    def _norms(self, coefficients: np.ndarray) -> np.ndarray:
        return np.asarray(np.sqrt(np.maximum(np.einsum("rn,rn->r", coefficients @ self.gram, coefficients), 0)))

    def _estimate(self, value: float, draws: np.ndarray, bounds: tuple[float, float]) -> Estimate:
        """Noise lengthens a norm and shortens a cosine, in the sample as it does again in its resamples: what it does there is taken off
        the value, and the interval lies around the corrected one. One replicate tells neither interval nor correction."""
        defined = draws[~np.isnan(draws)]
        if self.clusters < 2 or len(defined) < 2 or math.isnan(value):
            return Estimate(value, math.nan, math.nan, len(self.rows), self.clusters, self.level, kind="statistic")
        corrected = float(np.clip(2 * value - defined.mean(), *bounds))
        low, high = np.clip(expanded(corrected, defined, self.clusters, self.level), *bounds)
        return Estimate(corrected, float(low), float(high), len(self.rows), self.clusters, self.level, kind="statistic")

    def norm(self) -> Estimate:
        """Norm of the difference. Noise alone makes a norm positive, so its lower bound is never a test against 0."""
        return self._estimate(float(self._norms(self.observed[None])[0]), self._norms(self.coefficients), (0.0, math.inf))

    @cached_property
    def without(self) -> Float[np.ndarray, "clusters n"]:
        """Coefficients of the difference without one cluster each; NaN where a side would be empty."""
        kept = self.codes != np.arange(self.clusters)[:, None]
        sides = np.where(self.first, (kept & self.first).sum(axis=1)[:, None], (kept & ~self.first).sum(axis=1)[:, None])
        share = np.divide(kept, sides, out=np.full(kept.shape, np.nan), where=sides > 0)
        return np.where(self.first, share, -share)

    def cosine(self, direction: Float[np.ndarray, " d"], *, against: float | None = None) -> Estimate:
        """Cosine of the difference with a direction [d] (NaN when either is zero). `against`: the null value of its p, which flips the
        signs of the jackknife's pseudo-values."""
        exact = np.asarray(direction, dtype=np.float64)
        along = self.rows @ exact
        length = float(np.linalg.norm(exact))

        def cosines(coefficients: np.ndarray) -> np.ndarray:
            norms = self._norms(coefficients) * length
            return np.divide(coefficients @ along, norms, out=np.full(len(norms), np.nan), where=norms > 0)

        value = float(cosines(self.observed[None])[0])
        found = self._estimate(value, cosines(self.coefficients), (-1.0, 1.0))
        if against is None or math.isnan(found.low):
            return found
        tested = from_jackknife(value, cosines(self.without), n=len(self.rows), against=against, seed=self.seed, level=self.level)
        return replace(found, p=tested.p, against=tested.against)


def pairwise_cosine(
    differences: Float[np.ndarray, "pairs d"],
    *,
    against: float | None = None,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Mean cosine between the difference vectors of different pairs: 1 when every pair moves the same way, 0 when by chance.

    This is the SAS layer score of AutoSteer (arXiv 2507.13255). Resamples leave out the cosine of a pair with its own copy, which
    would bias them upwards. NaN with fewer than two non-zero differences. `against`: the null value of its p (jackknife, signs flipped).
    """
    exact = np.asarray(differences, dtype=np.float64)
    norms = np.linalg.norm(exact, axis=1)
    units = exact[norms > 0] / norms[norms > 0, None]
    n = len(units)
    if n < 2:
        return Estimate(math.nan, math.nan, math.nan, n, n, level)
    gram = units @ units.T
    np.fill_diagonal(gram, 0)
    weights = cluster_weights(n, replicates, seed)
    distinct = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    draws = np.divide(np.einsum("rn,rn->r", weights @ gram, weights), distinct, out=np.full(replicates, np.nan), where=distinct > 0)
    value = float(gram.sum() / (n * (n - 1)))
    low, high = np.clip(expanded(value, draws, n, level), -1.0, 1.0)
    found = Estimate(value, float(low), float(high), n, n, level, kind="statistic")
    if against is None or n < 3:
        return found
    left = (gram.sum() - 2 * gram.sum(axis=1)) / ((n - 1) * (n - 2))
    return replace(found, p=from_jackknife(value, left, n=n, against=against, seed=seed).p, against=against)
