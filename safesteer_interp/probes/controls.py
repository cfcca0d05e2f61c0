"""What separability must be compared with: shuffled labels, a bag of words, the prompt's length, a random direction.

A probe only shows that harm is *represented* if it beats what the words of the prompt, its length, or chance and flexibility give.
All controls use the same folds and pairs as `probes/separation.py` and return the same columns plus `control`; those that read only the
prompt's text see no site: their `site` and `width` are "" and their `depth` is -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from safesteer_interp.probes.rows import RESAMPLING, Resampling, Rows, check_rows
from safesteer_interp.probes.separation import Width, aurocs, place
from safesteer_interp.statistics import ENOUGH_DRAWS, Estimate


def shuffled_labels(
    rows: Rows, *, width: Width = 4, draws: int = ENOUGH_DRAWS, folds: int = 5, C: float = 1.0, resampling: Resampling = RESAMPLING
) -> pd.DataFrame:
    """AUROC of probes fitted and tested on shuffled labels: value is the mean over `draws`, low and high their central 95 %.

    Labels are exchanged as the design allows: swapped inside a pair, permuted among pairs of one label.
    """
    found: list[dict[str, Any]] = []
    for group, part in rows.by_group():
        fold = part.fold_array(folds, resampling.seed)
        shuffled = shuffle_labels(part.labels, part.pairs, draws, resampling.seed)
        for depth, site in enumerate(part.names):
            values, scored = _shuffled_aurocs(part.states[depth], shuffled, fold, width, C)
            found.append({"control": "shuffled labels"} | place(site, depth, group, width) | _band(values, scored, resampling))
    return pd.DataFrame(found)


def random_direction(rows: Rows, *, draws: int = 200, folds: int = 5, resampling: Resampling = RESAMPLING) -> pd.DataFrame:
    """AUROC of projections on isotropic random directions, their sign set on the fitting rows.

    Value is the mean over `draws`, low and high their central 95 %. The same directions are used at every site.
    """
    generator = np.random.default_rng(np.random.SeedSequence([resampling.seed, 2]))
    directions = generator.normal(size=(rows.states.shape[2], draws))
    found: list[dict[str, Any]] = []
    for group, part in rows.by_group():
        fold = part.fold_array(folds, resampling.seed)
        for depth, site in enumerate(part.names):
            values, scored = _projected_aurocs(part.states[depth], part.labels, fold, directions)
            found.append({"control": "random direction"} | place(site, depth, group, "") | _band(values, scored, resampling))
    return pd.DataFrame(found)


def bag_of_words(texts: Sequence[str], rows: Rows, *, folds: int = 5, resampling: Resampling = RESAMPLING) -> pd.DataFrame:
    """AUROC of a logistic regression on the word counts of the prompts' texts [n]: what no model is needed for.

    Where the harm sits in the image both twins share their text and this is 0.5 by design.
    """
    return _without_states("bag of words", rows, word_scores(texts, rows, folds=folds, seed=resampling.seed), resampling)


def prompt_length(lengths: np.ndarray, rows: Rows, *, folds: int = 5, resampling: Resampling = RESAMPLING) -> pd.DataFrame:
    """AUROC of the prompts' lengths [n] in tokens (whether long means harmful is learnt on the fitting rows)."""
    return _without_states("prompt length", rows, length_scores(lengths, rows, folds=folds, seed=resampling.seed), resampling)


def word_scores(texts: Sequence[str], rows: Rows, *, folds: int = 5, seed: int = 0) -> Float[np.ndarray, " n"]:
    """Held-out scores of a logistic regression on the word counts of `texts` [n], fitted within each group; NaN where not scored."""
    words = np.asarray(texts, dtype=object)
    check_rows(len(rows), texts=words)
    return _by_group(rows, lambda mask, fold: _word_scores(words[mask], rows.labels[mask], fold), folds, seed)


def length_scores(lengths: np.ndarray, rows: Rows, *, folds: int = 5, seed: int = 0) -> Float[np.ndarray, " n"]:
    """Held-out scores of a logistic regression on `lengths` [n], fitted within each group; NaN where not scored."""
    column = np.asarray(lengths, dtype=np.float64)[:, None]
    check_rows(len(rows), lengths=column)

    def score(mask: np.ndarray, fold: np.ndarray) -> np.ndarray:
        return np.asarray(fold_scores(column[mask], rows.labels[mask].astype(np.float64)[None], fold, [1])[0][0, 0])

    return _by_group(rows, score, folds, seed)


def shuffled_maximum(
    rows: Rows, *, width: Width = 4, draws: int = ENOUGH_DRAWS, folds: int = 5, C: float = 1.0, resampling: Resampling = RESAMPLING
) -> pd.DataFrame:
    """What choosing the best site finds where there is nothing: of each shuffled labelling the largest AUROC over all sites.

    Value is the mean over `draws`, low and high their percentiles; one row per group (columns control, group and those of a spread).
    """
    found: list[dict[str, Any]] = []
    for group, part in rows.by_group():
        fold = part.fold_array(folds, resampling.seed)
        shuffled = shuffle_labels(part.labels, part.pairs, draws, resampling.seed)
        by_site = np.stack([_shuffled_aurocs(site, shuffled, fold, width, C)[0] for site in part.states])
        spread = Estimate.of_draws(by_site.max(axis=0), resampling.level).as_row()
        found.append({"control": "best site of shuffled labels", "group": group} | spread)
    return pd.DataFrame(found)


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


def _shuffled_aurocs(
    states: Float[np.ndarray, "n d"], shuffled: Bool[np.ndarray, "draws n"], fold: np.ndarray, width: Width, C: float
) -> tuple[Float[np.ndarray, " draws"], Bool[np.ndarray, " n"]]:
    """At one site: the AUROC of a probe for each shuffled labelling, and the rows that were scored."""
    scores = fold_scores(states, shuffled.astype(np.float64), fold, [component_count(width)], C=C)[0][0]
    scored = np.isfinite(scores[0])
    return rank_aurocs(scores[:, scored].T, shuffled[:, scored].T), scored


def _projected_aurocs(
    states: Float[np.ndarray, "n d"], labels: Bool[np.ndarray, " n"], fold: np.ndarray, directions: Float[np.ndarray, "d draws"]
) -> tuple[Float[np.ndarray, " draws"], Bool[np.ndarray, " n"]]:
    """At one site: the AUROC along each direction, signed on the rows outside a fold, and the rows that were scored."""
    usable = np.isfinite(states).all(axis=1)
    projected = np.where(usable[:, None], states, 0) @ directions
    scores = np.full_like(projected, np.nan)
    for f in np.unique(fold[fold >= 0]):
        fit, test = usable & (fold != f), usable & (fold == f)
        sign = np.sign(projected[fit & labels].mean(axis=0) - projected[fit & ~labels].mean(axis=0))
        scores[test] = sign * (projected[test] - projected[fit].mean(axis=0))
    scored = np.isfinite(scores[:, 0])
    return rank_aurocs(scores[scored], labels[scored, None]), scored


def _word_scores(words: np.ndarray, labels: Bool[np.ndarray, " n"], fold: np.ndarray) -> Float[np.ndarray, " n"]:
    """Held-out decision values of a logistic regression on word counts."""
    scores = np.full(len(words), np.nan)
    for f in np.unique(fold[fold >= 0]):
        fit, test = fold != f, fold == f
        # Every run of word characters is a word (scikit-learn's default drops one-letter words and can be left with none).
        model = make_pipeline(CountVectorizer(token_pattern=r"(?u)\b\w+\b"), LogisticRegression(max_iter=1000))
        model.fit(words[fit], labels[fit])
        scores[test] = model.decision_function(words[test])
    return scores


def _by_group(rows: Rows, score: Callable[[np.ndarray, np.ndarray], np.ndarray], folds: int, seed: int) -> Float[np.ndarray, " n"]:
    """Scores that need no state: `score` maps a group's mask and folds to its held-out scores."""
    found = np.full(len(rows), np.nan)
    for mask in rows.masks().values():
        found[mask] = score(mask, rows.take(mask).fold_array(folds, seed))
    return found


def _without_states(control: str, rows: Rows, scores: Float[np.ndarray, " n"], resampling: Resampling) -> pd.DataFrame:
    """One row per group for scores that need no state."""
    return pd.DataFrame(
        {"control": control} | place("", -1, group, "") | aurocs(scores[None, mask], rows.take(mask), resampling)[0].as_row()
        for group, mask in rows.masks().items()
    )


def _band(values: np.ndarray, scored: np.ndarray, resampling: Resampling) -> dict[str, Any]:
    """Mean and central percentiles of the draws: a spread, whose clusters are the draws; n is the number of rows scored."""
    return Estimate.of_draws(values, resampling.level).as_row() | {"n": int(scored.sum())}
