"""What separability must be compared with: shuffled labels, a bag of words, the prompt's length, a random direction.

A probe only shows that harm is *represented* if it beats what the words of the prompt, its length, or chance and flexibility give.
All controls use the same folds and pairs as `probes/separability.py` and return the same columns plus `control`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from safesteer_interp.probes.decoding_probe import component_count
from safesteer_interp.probes.nested import fold_scores
from safesteer_interp.probes.separability import auroc_columns, check_rows, fold_array, group_masks, site_names, width_name
from safesteer_interp.statistics import Estimate, percentile


def shuffled_labels(
    states: Float[np.ndarray, "sites n d"],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    sites: Sequence[Hashable] | None = None,
    width: int | str | None = 4,
    draws: int = 20,
    train: Bool[np.ndarray, " n"] | None = None,
    folds: int = 5,
    C: float = 1.0,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUROC of probes fitted and tested on shuffled labels: value is the mean over `draws`, low and high their percentiles.

    Labels are exchanged as the design allows: swapped inside a pair, permuted among pairs of one label.
    """
    labels, pairs, names = np.asarray(labels, dtype=bool), np.asarray(pairs), site_names(sites, len(states))
    check_rows(states.shape[1], labels=labels, pairs=pairs, groups=groups, train=train)
    rows: list[dict[str, Any]] = []
    for group, mask in group_masks(groups, labels):
        fold = fold_array(pairs[mask], None if train is None else train[mask], folds, seed)
        shuffled = shuffle_labels(labels[mask], pairs[mask], draws, seed)
        for depth, site in enumerate(names):
            scores = fold_scores(states[depth, mask], shuffled.astype(np.float64), fold, [component_count(width)], C=C)[0][0]
            scored = np.isfinite(scores[0])
            values = rank_aurocs(scores[:, scored].T, shuffled[:, scored].T)
            rows.append(_row("shuffled labels", group, _band(values, int(scored.sum()), pairs[mask][scored], level), site, depth, width))
    return pd.DataFrame(rows)


def random_direction(
    states: Float[np.ndarray, "sites n d"],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    sites: Sequence[Hashable] | None = None,
    draws: int = 200,
    train: Bool[np.ndarray, " n"] | None = None,
    folds: int = 5,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUROC of projections on isotropic random directions, their sign set on the fitting rows.

    Value is the mean over `draws`, low and high their percentiles. The same directions are used at every site.
    """
    labels, pairs, names = np.asarray(labels, dtype=bool), np.asarray(pairs), site_names(sites, len(states))
    check_rows(states.shape[1], labels=labels, pairs=pairs, groups=groups, train=train)
    directions = np.random.default_rng(np.random.SeedSequence([seed, 2])).normal(size=(states.shape[2], draws))
    rows: list[dict[str, Any]] = []
    for group, mask in group_masks(groups, labels):
        fold = fold_array(pairs[mask], None if train is None else train[mask], folds, seed)
        y = labels[mask]
        for depth, site in enumerate(names):
            usable = np.isfinite(states[depth, mask]).all(axis=1)
            projected = np.where(usable[:, None], states[depth, mask], 0) @ directions
            scores = np.full_like(projected, np.nan)
            for f in np.unique(fold[fold >= 0]):
                fit, test = usable & (fold != f), usable & (fold == f)
                sign = np.sign(projected[fit & y].mean(axis=0) - projected[fit & ~y].mean(axis=0))
                scores[test] = sign * (projected[test] - projected[fit].mean(axis=0))
            scored = np.isfinite(scores[:, 0])
            values = rank_aurocs(scores[scored], y[scored, None])
            rows.append(_row("random direction", group, _band(values, int(scored.sum()), pairs[mask][scored], level), site, depth))
    return pd.DataFrame(rows)


def bag_of_words(
    texts: Sequence[str],
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    train: Bool[np.ndarray, " n"] | None = None,
    folds: int = 5,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUROC of a logistic regression on the word counts of the prompt's text: what no model is needed for.

    Where the harm sits in the image both twins share their text and this is 0.5 by design.
    """
    labels, pairs, words = np.asarray(labels, dtype=bool), np.asarray(pairs), np.asarray(texts, dtype=object)
    check_rows(len(labels), texts=words, pairs=pairs, groups=groups, train=train)

    def score(mask: np.ndarray, fold: np.ndarray) -> np.ndarray:
        scores = np.full(int(mask.sum()), np.nan)
        for f in np.unique(fold[fold >= 0]):
            fit, test = fold != f, fold == f
            # Every run of word characters is a word (scikit-learn's default drops one-letter words and can be left with none).
            model = make_pipeline(CountVectorizer(token_pattern=r"(?u)\b\w+\b"), LogisticRegression(max_iter=1000))
            model.fit(words[mask][fit], labels[mask][fit])
            scores[test] = model.decision_function(words[mask][test])
        return scores

    return _text_control("bag of words", score, labels, pairs, groups, train, folds, replicates, seed, level)


def prompt_length(
    lengths: np.ndarray,
    labels: Bool[np.ndarray, " n"],
    pairs: np.ndarray,
    groups: np.ndarray | None = None,
    *,
    train: Bool[np.ndarray, " n"] | None = None,
    folds: int = 5,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """AUROC of the prompt's length in tokens (whether long means harmful is learnt on the fitting rows)."""
    labels, pairs = np.asarray(labels, dtype=bool), np.asarray(pairs)
    column = np.asarray(lengths, dtype=np.float64)[:, None]
    check_rows(len(labels), lengths=column, pairs=pairs, groups=groups, train=train)

    def score(mask: np.ndarray, fold: np.ndarray) -> np.ndarray:
        return np.asarray(fold_scores(column[mask], labels[mask].astype(np.float64)[None], fold, [1])[0][0, 0])

    return _text_control("prompt length", score, labels, pairs, groups, train, folds, replicates, seed, level)


def shuffle_labels(labels: Bool[np.ndarray, " n"], pairs: np.ndarray, draws: int, seed: int) -> Bool[np.ndarray, "draws n"]:
    """Shuffled labellings [draws, n]: a pair with both labels is swapped as a whole or not; pairs of one label exchange theirs."""
    _, codes = np.unique(np.asarray(pairs).astype(str), return_inverse=True)
    share = np.bincount(codes, labels) / np.bincount(codes)
    pure = (share == 0) | (share == 1)
    shuffled = np.empty((draws, len(labels)), dtype=bool)
    for draw, child in enumerate(np.random.SeedSequence([seed, 1]).spawn(draws)):
        rng = np.random.default_rng(child)
        flip, exchanged = rng.random(len(share)) < 0.5, share.copy()
        exchanged[pure] = rng.permutation(share[pure])
        shuffled[draw] = np.where(pure[codes], exchanged[codes] == 1, labels ^ flip[codes])
    return shuffled


def rank_aurocs(scores: Float[np.ndarray, "n columns"], labels: Bool[np.ndarray, "n c"]) -> Float[np.ndarray, " columns"]:
    """AUROC of every column at once (ties count half); `labels` has one column per score column, or one for all. NaN for one class only."""
    ranks = rankdata(scores, axis=0)
    positives = labels.sum(axis=0)
    wins = (ranks * labels).sum(axis=0) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore"):  # a resample of requests without twins may hold one class only
        return np.asarray(wins / (positives * (len(scores) - positives)))


def _text_control(
    control: str, score: Any, labels: np.ndarray, pairs: np.ndarray, groups: np.ndarray | None, train: np.ndarray | None,
    folds: int, replicates: int, seed: int, level: float,
) -> pd.DataFrame:  # fmt: skip
    rows = []
    for group, mask in group_masks(groups, labels):
        fold = fold_array(pairs[mask], None if train is None else train[mask], folds, seed)
        scores = score(mask, fold)[:, None]
        estimate = auroc_columns(scores, labels[mask], pairs[mask], replicates=replicates, seed=seed, level=level)[0]
        rows.append(_row(control, group, estimate))
    return pd.DataFrame(rows)


def _band(values: np.ndarray, n: int, pairs: np.ndarray, level: float) -> Estimate:
    return Estimate(float(values.mean()), *percentile(values, level), int(n), len(np.unique(pairs)), level)


def _row(control: str, group: str, estimate: Estimate, site: str = "", depth: int = -1, width: int | str | None = "") -> dict[str, Any]:
    """One row; text controls see no site: their `site` and `width` are "" and their `depth` is -1."""
    return {"control": control, "site": site, "depth": depth, "group": group, "width": width_name(width)} | estimate.as_row()
