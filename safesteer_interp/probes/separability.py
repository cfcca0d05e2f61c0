"""How separable harmful from harmless requests are: AUROC with a pair-clustered interval, per site, attack and probe width.

Separability is never one number: see `probes/controls.py` for what it must be compared with. Rows are always split by pair.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from safesteer_interp.errors import InputError
from safesteer_interp.probes.decoding_probe import component_count
from safesteer_interp.probes.folds import pair_folds, split_folds
from safesteer_interp.probes.nested import fold_scores
from safesteer_interp.statistics import Estimate, cluster_aurocs

WIDTHS: tuple[int | str, ...] = (1, 2, 4, 8, 16, "all")
"""Probe widths of the layer ablation; the paper uses 4."""


def out_of_fold(
    states: Float[np.ndarray, "sites n d"],
    labels: Bool[np.ndarray, " n"],
    folds: Int[np.ndarray, " n"],
    *,
    widths: Sequence[int | str | None] = (4,),
    fit_on: np.ndarray | None = None,
    C: float = 1.0,
) -> Float[np.ndarray, "sites widths n"]:
    """Probe scores of held-out rows at every site and width (NaN where a row is not scored); `folds` as in `probes/folds.py`."""
    target = np.asarray(labels, dtype=np.float64)[None]
    counts = [component_count(w) for w in widths]
    return np.stack([fold_scores(site, target, folds, counts, fit_on=fit_on, C=C)[0][:, 0] for site in states])


def separability(
    states: Float[np.ndarray, "sites n d"] | Float[np.ndarray, "n d"],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    sites: Sequence[Hashable] | None = None,
    widths: Sequence[int | str | None] = (4,),
    train: Bool[np.ndarray, " n"] | None = None,
    folds: int = 5,
    C: float = 1.0,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUROC of held-out probe scores, one row per site, group and width.

    `groups` [n] (usually the attack) each get a probe of their own; None is one group "all". With `train` [n] bool probes are fitted
    on train rows and scored on the others, else by `folds`-fold cross-validation over pairs.
    Columns: site, depth (position in `sites`), group, width, value, low, high, n, clusters.
    Raises InputError when a group has one class only, or labels, pairs and states disagree in length.
    """
    stack = states[None] if states.ndim == 2 else states
    labels, pairs, names = np.asarray(labels, dtype=bool), np.asarray(pairs), site_names(sites, len(stack))
    check_rows(stack.shape[1], labels=labels, pairs=pairs, groups=groups, train=train)
    rows: list[dict[str, Any]] = []
    for group, mask in group_masks(groups, labels):
        fold = fold_array(pairs[mask], None if train is None else train[mask], folds, seed)
        scores = out_of_fold(stack[:, mask], labels[mask], fold, widths=widths, C=C)
        for depth, site in enumerate(names):
            found = auroc_columns(scores[depth].T, labels[mask], pairs[mask], replicates=replicates, seed=seed, level=level)
            for width, estimate in zip(widths, found, strict=True):
                rows.append({"site": site, "depth": depth, "group": group, "width": width_name(width)} | estimate.as_row())
    return pd.DataFrame(rows)


def transfer(
    states: Float[np.ndarray, "n d"],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray,
    *,
    width: int | str | None = 4,
    leave_one_out: bool = True,
    train: Bool[np.ndarray, " n"] | None = None,
    folds: int = 5,
    C: float = 1.0,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Fit on one group (attack), score the others: AUROC for every ordered pair of groups, never with a pair on both sides.

    `leave_one_out` adds, for each group, a probe fitted on all other groups (`fitted_on` = "all but X"), tested on it.
    Columns: fitted_on, tested_on, value, low, high, n, clusters. An AUROC below 0.5 says the direction turns round.
    """
    labels, pairs, groups = np.asarray(labels, dtype=bool), np.asarray(pairs), np.asarray(groups)
    check_rows(len(states), labels=labels, pairs=pairs, groups=groups, train=train)
    fold = fold_array(pairs, train, folds, seed)
    masks = dict(group_masks(groups, labels))
    sources: list[tuple[Any, np.ndarray, list[Any]]] = [(name, mask, list(masks)) for name, mask in masks.items()]
    if leave_one_out and len(masks) > 1:
        sources += [(f"all but {name}", ~mask, [name]) for name, mask in masks.items()]
    rows = []
    for source, fit_on, targets in sources:
        scores = out_of_fold(states[None], labels, fold, widths=[width], fit_on=fit_on, C=C)[0, 0]
        for target in targets:
            mask = masks[target]
            estimate = auroc_columns(scores[mask, None], labels[mask], pairs[mask], replicates=replicates, seed=seed, level=level)[0]
            rows.append({"fitted_on": source, "tested_on": target} | estimate.as_row())
    return pd.DataFrame(rows)


def fold_stability(
    states: Float[np.ndarray, "sites n d"],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    sites: Sequence[Hashable] | None = None,
    widths: Sequence[int | str | None] = (4,),
    folds: int = 5,
    C: float = 1.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Cosine between the probe directions of different folds: 1 when the direction does not depend on which pairs were drawn.

    Columns as `separability`; value is the mean over pairs of folds, low and high their smallest and largest, n the number of them.
    Folds share (folds - 2) / (folds - 1) of their data, so this is an upper bound on stability over fresh samples.
    """
    labels, pairs, names = np.asarray(labels, dtype=bool), np.asarray(pairs), site_names(sites, len(states))
    check_rows(states.shape[1], labels=labels, pairs=pairs, groups=groups)
    counts = [component_count(w) for w in widths]
    upper = np.triu_indices(folds, 1)
    rows: list[dict[str, Any]] = []
    for group, mask in group_masks(groups, labels):
        fold = pair_folds(pairs[mask], folds, seed)
        for depth, site in enumerate(names):
            weights = fold_scores(states[depth, mask], labels[mask].astype(np.float64)[None], fold, counts, C=C)[1][:, :, 0]
            units = weights / np.maximum(np.linalg.norm(weights, axis=-1, keepdims=True), np.finfo(np.float64).tiny)
            for i, width in enumerate(widths):
                cosines = (units[:, i] @ units[:, i].T)[upper]
                found = Estimate(float(cosines.mean()), float(cosines.min()), float(cosines.max()), len(cosines))
                rows.append({"site": site, "depth": depth, "group": group, "width": width_name(width)} | found.as_row())
    return pd.DataFrame(rows)


def auroc_columns(
    scores: Float[np.ndarray, "n columns"], labels: np.ndarray, pairs: np.ndarray, *, replicates: int, seed: int, level: float
) -> list[Estimate]:
    """One clustered AUROC per column over the rows that were scored (not NaN in any column)."""
    scored = np.isfinite(scores).all(axis=1)
    return cluster_aurocs(scores[scored], labels[scored], pairs[scored], replicates=replicates, seed=seed, level=level)


def fold_array(pairs: np.ndarray, train: np.ndarray | None, folds: int, seed: int) -> np.ndarray:
    """The fold array of a train/test split when there is one, else of cross-validation."""
    return pair_folds(pairs, folds, seed) if train is None else split_folds(train, pairs)


def group_masks(groups: np.ndarray | None, labels: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """(name, rows) of each group in order of appearance. Raises InputError for a group without both classes."""
    if groups is None:
        return [("all", np.ones(len(labels), dtype=bool))]
    names = np.asarray([str(g) for g in groups])
    masks = [(name, names == name) for name in dict.fromkeys(names.tolist())]
    for name, mask in masks:
        harmful = int(labels[mask].sum())
        if harmful in (0, int(mask.sum())):
            raise InputError(
                f'group "{name}" has {harmful} harmful and {int(mask.sum()) - harmful} harmless requests; separability needs both, so '
                "leave the group out or add its twins."
            )
    return masks


def site_names(sites: Sequence[Hashable] | None, n: int) -> list[str]:
    """Text names of the sites, "0", "1", ... when none are given. Raises InputError when their number is wrong."""
    names = [str(s) for s in (range(n) if sites is None else sites)]
    if len(names) != n:
        raise InputError(f"{len(names)} site names were given for states of {n} sites.")
    return names


def width_name(width: int | str | None) -> str:
    """A probe width as text, so that a column holds one type: "4" or "all"."""
    return "all" if width is None else str(width)


def check_rows(n: int, **columns: np.ndarray | None) -> None:
    """Raise InputError, naming the argument, when one has another number of rows than the states."""
    for name, values in columns.items():
        if values is not None and len(values) != n:
            raise InputError(f"`{name}` has {len(values)} entries but there are states of {n} requests; both follow the trace's index.")
