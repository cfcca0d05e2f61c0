"""How separable harmful from harmless requests are: AUROC with a pair-clustered interval, per site, attack and probe width.

Separability is never one number: see `probes/controls.py` for what it must be compared with. Rows are always split by pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from safesteer_interp.errors import UsageError
from safesteer_interp.probes.decoding_probe import component_count
from safesteer_interp.probes.folds import pair_folds
from safesteer_interp.probes.nested import fold_scores
from safesteer_interp.probes.rows import RESAMPLING, Resampling, Rows
from safesteer_interp.statistics import Estimate, cluster_aurocs

Width = int | str | None
"""Principal components of a probe; "all" or None: the full space."""
WIDTHS: tuple[int | str, ...] = (1, 2, 4, 8, 16, "all")
"""Probe widths of the layer ablation; the paper uses 4."""


def out_of_fold(
    states: Float[np.ndarray, "sites n d"],
    labels: Bool[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    *,
    widths: Sequence[Width] = (4,),
    fit_on: np.ndarray | None = None,
    C: float = 1.0,
) -> Float[np.ndarray, "sites widths n"]:
    """Probe scores of held-out rows at every site and width (NaN where a row is not scored); `folds` as in `probes/folds.py`."""
    target = np.asarray(labels, dtype=np.float64)[None]
    counts = [component_count(w) for w in widths]
    return np.stack([fold_scores(site, target, folds, counts, fit_on=fit_on, C=C)[0][:, 0] for site in states])


def separability(
    rows: Rows,
    *,
    widths: Sequence[Width] = (4,),
    folds: int = 5,
    C: float = 1.0,
    resampling: Resampling = RESAMPLING,
    against: float = 0.5,
) -> pd.DataFrame:
    """AUROC of held-out probe scores, one row per group, site and width: fitted on train rows, else by `folds`-fold cross-validation.

    Columns: site, depth (position in `sites`), group, width and those of `Estimate.as_row`; p is that of the AUROC being `against`.
    Raises InputError when a group has one class only.
    """
    found: list[dict[str, Any]] = []
    for group, part in rows.by_group():
        fold = part.fold_array(folds, resampling.seed)
        for depth, site in enumerate(part.names):
            scores = out_of_fold(part.states[[depth]], part.labels, fold, widths=widths, C=C)[0]
            for width, estimate in zip(widths, aurocs(scores, part, resampling, against), strict=True):
                found.append(place(site, depth, group, width) | estimate.as_row())
    return pd.DataFrame(found)


def transfer(
    rows: Rows,
    *,
    width: Width = 4,
    leave_one_out: bool = True,
    folds: int = 5,
    C: float = 1.0,
    resampling: Resampling = RESAMPLING,
    against: float = 0.5,
) -> pd.DataFrame:
    """Fit on one group (attack), score the others: AUROC for every ordered pair of groups, never with a pair on both sides.

    `leave_one_out` adds, for each group, a probe fitted on all other groups (`fitted_on` = "all but X"), tested on it.
    Columns: fitted_on, tested_on and those of `Estimate.as_row`. An AUROC below 0.5 says the direction turns round.
    Raises UsageError for rows of several sites.
    """
    if len(rows.states) != 1:
        raise UsageError(f"transfer is measured at one site, but the rows hold {len(rows.states)}; take one after the other.")
    fold, masks = rows.fold_array(folds, resampling.seed), rows.masks()
    sources = [(name, mask, list(masks)) for name, mask in masks.items()]
    if leave_one_out and len(masks) > 1:
        sources += [(f"all but {name}", ~mask, [name]) for name, mask in masks.items()]
    found: list[dict[str, Any]] = []
    for source, fit_on, targets in sources:
        scores = out_of_fold(rows.states, rows.labels, fold, widths=[width], fit_on=fit_on, C=C)[0]
        for target in targets:
            estimate = aurocs(scores[:, masks[target]], rows.take(masks[target]), resampling, against)[0]
            found.append({"fitted_on": source, "tested_on": target} | estimate.as_row())
    return pd.DataFrame(found)


def fold_stability(rows: Rows, *, widths: Sequence[Width] = (4,), folds: int = 5, C: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Cosine between the probe directions of different folds: 1 when the direction does not depend on which pairs were drawn.

    Columns as `separability`; value is the mean over pairs of folds, low and high their smallest and largest, n the number of them.
    Folds share (folds - 2) / (folds - 1) of their data, so this is an upper bound on stability over fresh samples. `train` is not used.
    """
    found: list[dict[str, Any]] = []
    for group, part in rows.by_group():
        fold = pair_folds(part.pairs, folds, seed)
        for depth, site in enumerate(part.names):
            for width, estimate in zip(widths, _agreement(part, depth, fold, widths, C), strict=True):
                found.append(place(site, depth, group, width) | estimate.as_row())
    return pd.DataFrame(found)


def _agreement(rows: Rows, depth: int, fold: np.ndarray, widths: Sequence[Width], C: float) -> list[Estimate]:
    """Mean, smallest and largest cosine between the directions of different folds at one site, per width."""
    counts = [component_count(w) for w in widths]
    weights = fold_scores(rows.states[depth], rows.labels.astype(np.float64)[None], fold, counts, C=C)[1][:, :, 0]
    units = weights / np.maximum(np.linalg.norm(weights, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    pairs_of_folds = np.triu_indices(len(units), 1)
    cosines = [(units[:, i] @ units[:, i].T)[pairs_of_folds] for i in range(len(widths))]
    return [Estimate.of_draws(x, level=1) for x in cosines]


def aurocs(scores: Float[np.ndarray, "columns n"], rows: Rows, resampling: Resampling, against: float = 0.5) -> list[Estimate]:
    """One clustered AUROC per row of `scores`, over the requests that were scored (NaN in no row), tested against `against`."""
    there = np.isfinite(scores).all(axis=0)
    return cluster_aurocs(
        scores.T[there], rows.labels[there], rows.pairs[there], against=against, seed=resampling.seed, level=resampling.level
    )


def place(site: str, depth: int, group: str, width: Width) -> dict[str, Any]:
    """Where a row of a table was measured. Widths are text ("4", "all"), so that a column holds one type."""
    return {"site": site, "depth": depth, "group": group, "width": "all" if width is None else str(width)}
