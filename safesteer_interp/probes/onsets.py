"""Onset: the first layer at which harm is readable, with an interval over pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from safesteer_interp.errors import UsageError
from safesteer_interp.probes.rows import RESAMPLING, Resampling
from safesteer_interp.statistics import Estimate, cluster_aurocs, cluster_codes, cluster_weights


@dataclass(frozen=True)
class Onset:
    """Where a layer curve first reaches a bar. Depths are positions in the list of sites."""

    estimate: Estimate
    """First depth whose AUROC reaches the bar (NaN: none does). A bound equal to the number of sites means "beyond the last one"."""
    bar: float
    """The AUROC to reach on the whole sample."""
    certain: int | None
    """First depth whose lower bound exceeds the bar; None when no depth's does."""


def onset(
    scores: Float[np.ndarray, "sites n"],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    *,
    threshold: float | None = None,
    fraction: float = 0.9,
    resampling: Resampling = RESAMPLING,
) -> Onset:
    """First site whose AUROC reaches `threshold`, or by default `fraction` of the best site's rise above 0.5.

    `scores` are held-out probe scores (`out_of_fold`); columns that are NaN at any site are left out. The interval resamples pairs
    once for all sites and takes the onset (and the bar, when it is a fraction) of every resample.
    Raises UsageError for a threshold or fraction outside its range.
    """
    if threshold is not None and not 0.5 < threshold <= 1:
        raise UsageError(f"the onset threshold is {threshold} but an AUROC to reach lies above 0.5 and up to 1.")
    if not 0 < fraction <= 1:
        raise UsageError(f"the onset fraction is {fraction} but must lie above 0 and up to 1.")

    def bars(curves: np.ndarray) -> np.ndarray:
        return np.full(len(curves), threshold) if threshold is not None else 0.5 + fraction * (np.nanmax(curves, axis=1) - 0.5)

    scored = np.isfinite(scores).all(axis=0)
    scores, labels, pairs = scores[:, scored], np.asarray(labels, dtype=bool)[scored], np.asarray(pairs)[scored]
    by_site = cluster_aurocs(scores.T, labels, pairs, seed=resampling.seed, level=resampling.level)
    curve = np.array([[e.value for e in by_site]])
    bar, clusters = float(bars(curve)[0]), by_site[0].clusters
    first = first_reaching(curve, np.array([bar]))[0]
    low, high = math.nan, math.nan
    if clusters is not None and clusters > 1:
        draws = auroc_replicates(scores, labels, pairs, resampling)
        low, high = _bounds(draws[:, ~np.isnan(draws).any(axis=0)].T, bars, resampling.level)
    estimate = Estimate(float(first) if first < len(scores) else math.nan, low, high, len(labels), clusters, resampling.level)
    return Onset(estimate, bar, next((depth for depth, e in enumerate(by_site) if e.low > bar), None))


def _bounds(curves: Float[np.ndarray, "replicates sites"], bars: Callable[[np.ndarray], np.ndarray], level: float) -> tuple[float, float]:
    """The central `level` of the onsets of resampled curves; bounds are sites, so they are observed values."""
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(first_reaching(curves, bars(curves)), quantiles, method="closest_observation").tolist()
    return low, high


def first_reaching(curves: Float[np.ndarray, "replicates sites"], bars: Float[np.ndarray, " replicates"]) -> np.ndarray:
    """First site of each curve at or above its bar [replicates]; the number of sites where none is."""
    reached = curves >= bars[:, None] - 1e-12
    return np.where(reached.any(axis=1), reached.argmax(axis=1), curves.shape[1])


def auroc_replicates(
    scores: Float[np.ndarray, "sites n"], labels: np.ndarray, pairs: np.ndarray, resampling: Resampling = RESAMPLING
) -> Float[np.ndarray, "sites replicates"]:
    """AUROC of every site in every cluster resample (those of `cluster_weights` with the same seed)."""
    codes, groups = cluster_codes(pairs, len(labels))
    weights = cluster_weights(groups, resampling.replicates, resampling.seed)
    member = np.eye(groups)[codes]
    positive, negative = member[labels], member[~labels]
    total = (weights @ positive.sum(axis=0)) * (weights @ negative.sum(axis=0))
    found = np.full((len(scores), resampling.replicates), np.nan)
    for site, s in enumerate(scores):
        above = s[labels][:, None] - s[~labels]
        wins = positive.T @ (np.sign(above) / 2 + 0.5) @ negative
        np.divide(((weights @ wins) * weights).sum(axis=1), total, out=found[site], where=total > 0)
    return found
