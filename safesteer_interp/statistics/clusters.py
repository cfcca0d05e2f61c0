"""Clusters: which rows were sampled together (a pair), how often a resample holds each, and how their signs are flipped.

Replicate r draws from its own generator, derived from (seed, r): a resample is the same on two cores or sixteen, and two statistics
with the same clusters and seed see the same resamples, which is what makes their difference a paired comparison.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from safesteer_interp.errors import InputError


def cluster_codes(clusters: ArrayLike, n: int) -> tuple[np.ndarray, int]:
    """Cluster ids as integers 0..G-1 [n], and G. Raises InputError when an id is missing or the lengths differ."""
    ids = np.asarray(clusters)
    if ids.shape != (n,):
        raise InputError(f"{n} rows need {n} cluster ids, got an array of shape {ids.shape}.")
    missing = sum(id_ is None or id_ == "" or id_ != id_ for id_ in ids.tolist())
    if missing:
        raise InputError(f"{missing} of {n} rows have no cluster id; every row needs the pair it belongs to.")
    names, codes = np.unique(ids.astype(str) if ids.dtype == object else ids, return_inverse=True)
    return codes, len(names)


@lru_cache(maxsize=32)
def cluster_weights(n_clusters: int, replicates: int, seed: int) -> np.ndarray:
    """How often each cluster is drawn in each replicate, [replicates, clusters] float64, read-only.

    Drawing G clusters with replacement; one generator per replicate.
    """
    weights = np.empty((replicates, n_clusters))
    for r, child in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        drawn = np.random.Generator(np.random.PCG64(child)).integers(0, n_clusters, n_clusters)
        weights[r] = np.bincount(drawn, minlength=n_clusters)
    weights.setflags(write=False)
    return weights


@lru_cache(maxsize=16)
def cluster_signs(n_clusters: int, permutations: int, seed: int) -> np.ndarray:
    """Signs [permutations, clusters] of a sign-flip test, read-only: every combination once where there are no more than
    `permutations` of them (the first row is the observed one), else as many at random."""
    if n_clusters < 25 and 2**n_clusters <= permutations + 1:
        signs = np.array(list(product([1.0, -1.0], repeat=n_clusters)))[1:]
    else:
        signs = np.random.default_rng(np.random.SeedSequence(seed)).choice([-1.0, 1.0], size=(permutations, n_clusters))
    signs.setflags(write=False)
    return signs


def finite(values: ArrayLike, name: str) -> np.ndarray:
    """The values as floats. Raises InputError, with their number, when some are NaN or infinite."""
    x = np.asarray(values, dtype=float)
    bad = int((~np.isfinite(x)).sum())
    if bad:
        raise InputError(f"{bad} of {x.size} {name} are NaN or infinite; leave those rows out and say how many there were.")
    return x
