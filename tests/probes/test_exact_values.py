"""Numbers of one seeded sample: published tables rest on them. (Intervals are those of `statistics.cluster_aurocs`.)"""

from __future__ import annotations

import numpy as np
import pandas as pd

from safesteer_interp.probes import controls
from safesteer_interp.probes.folds import pair_folds
from safesteer_interp.probes.onsets import Onset, auroc_replicates, onset
from safesteer_interp.probes.rows import Resampling, Rows
from safesteer_interp.probes.separation import fold_stability, out_of_fold, separability, transfer
from safesteer_interp.statistics import Estimate

PAIRS, D = 24, 12
NAMES = ("embed", "resid_post.0", "resid_post.1", "final_norm")
TWO_HUNDRED = Resampling(200, seed=3)


def sample(sites: slice = slice(None), grouped: bool = True, split: bool = False) -> Rows:
    """24 pairs as CB and SD at 4 sites, harm from site 2 on, reversed for SD at the last; the first 14 pairs for training if split."""
    rng = np.random.default_rng(11)
    labels, pairs = np.tile([False, True], 2 * PAIRS), np.tile(np.repeat([f"p{i:02d}" for i in range(PAIRS)], 2), 2)
    groups, states = np.repeat(["CB", "SD"], 2 * PAIRS), 5 + rng.normal(size=(4, 4 * PAIRS, D))
    states[2:, labels, 0] += 1.5
    states[3, labels & (groups == "SD"), 0] -= 2.0
    train = np.isin(pairs, [f"p{i:02d}" for i in range(14)]) if split else None
    return Rows(states[sites], labels, pairs, groups if grouped else None, NAMES[sites], train)


def check(table: pd.DataFrame, expected: list[tuple[float, float, float]], **where: object) -> None:
    """The rows that match hold these values, lows and highs."""
    for column, value in where.items():
        table = table[table[column] == value]
    np.testing.assert_allclose(table[["value", "low", "high"]].to_numpy(), expected, rtol=0, atol=1e-9)


def test_separability() -> None:
    table = separability(sample(), widths=(1, 4, "all"), resampling=TWO_HUNDRED)
    assert (table.n == 48).all() and (table.clusters == 24).all() and list(table.group) == ["CB"] * 12 + ["SD"] * 12
    expected = [(0.739583333333, 0.578231479678, 0.850033582063), (0.852430555556, 0.678864585732, 0.936180962231),
                (0.807291666667, 0.678545113841, 0.88894257023)]  # fmt: skip
    check(table, expected, site="final_norm", group="CB")
    check(table, [(0.805555555556, 0.646052654033, 0.899309723761)], site="resid_post.1", group="SD", width="4")
    split = separability(sample(split=True), resampling=Resampling(200, 0.9, 3))
    check(
        split,
        [
            (0.5, 0.256625626894, 0.743374373106),
            (0.69, 0.451976640005, 0.851510891058),
            (0.88, 0.591741063226, 0.97020670591),
            (0.84, 0.661098816023, 0.929771429692),
        ],
        group="CB",
    )
    one = separability(sample(slice(2, 3), grouped=False), resampling=Resampling(100, seed=3))
    check(one, [(0.829427083333, 0.729811753363, 0.894765540754)])


def test_stability_and_transfer() -> None:
    table = fold_stability(sample(), widths=[1, 4], seed=3)
    check(table, [(0.899396223688, 0.795789061108, 0.977425152906)], site="final_norm", group="CB", width="4")
    check(table, [(0.248369226395, -0.850019006638, 0.972554611063)], site="embed", group="SD", width="1")
    last = slice(3, 4)
    cb, sd, cb_to_sd, sd_to_cb = (
        (0.852430555556, 0.678864585732, 0.936180962231),
        (0.59375, 0.402415774552, 0.756940458157),
        (0.390625, 0.229071678157, 0.585692156444),
        (0.404513888889, 0.243636054805, 0.5933409593),
    )
    check(transfer(sample(last), resampling=TWO_HUNDRED), [cb, cb_to_sd, sd_to_cb, sd, sd_to_cb, cb_to_sd])
    split = transfer(sample(last, split=True), width="all", leave_one_out=False, resampling=TWO_HUNDRED)
    check(
        split,
        [
            (0.84, 0.58537284161, 0.946484095224),
            (0.15, 0.037097094587, 0.4796054994),
            (0.55, 0.24510480281, 0.81871236262),
            (0.63, 0.304624019613, 0.863130682388),
        ],
    )


def test_controls() -> None:
    rows, resampling = sample(split=True), Resampling(seed=3)
    shuffled = controls.shuffled_labels(rows, draws=39, resampling=resampling)
    check(shuffled, [(0.465641025641, 0.15, 0.76), (0.471794871795, 0.17, 0.81)], site="final_norm")
    folded = controls.shuffled_labels(sample(slice(0, 2), grouped=False), width=2, draws=39, resampling=resampling)
    check(folded, [(0.498441951567, 0.347222222222, 0.595920138889), (0.485654825499, 0.291666666667, 0.684895833333)])
    random = controls.random_direction(rows, draws=40, resampling=resampling)
    check(random, [(0.57525, 0.15, 0.79), (0.54625, 0.12, 0.81)], site="final_norm")
    labels, hundred = sample().labels, Resampling(100, seed=3)
    texts = [f"word{(i * 7) % 5} thing{int(bad) * (i % 3)}" for i, bad in enumerate(labels)]
    check(controls.bag_of_words(texts, sample(), resampling=hundred), [(0.688368055556, 0.471131054346, 0.839747918247)] * 2)
    lengths = 10 + labels * (np.arange(len(labels)) % 4)
    check(controls.prompt_length(lengths, rows, resampling=hundred), [(1.0, 0.745541513144, 1.0)] * 2)


def test_onset() -> None:
    rows = next(part for name, part in sample().by_group() if name == "CB")
    scores = out_of_fold(rows.states, rows.labels, pair_folds(rows.pairs, 5, 3), widths=[4])[:, 0]
    np.testing.assert_allclose(scores.sum(axis=1), [3.316372810609, 0.755117661397, 2.607483238424, 2.532602109827], atol=1e-9)
    found = onset(scores, rows.labels, rows.pairs, resampling=TWO_HUNDRED)
    assert found == Onset(Estimate(3.0, 1, 3, 48, 24, 0.95), 0.8171875, None)
    early = onset(scores, rows.labels, rows.pairs, threshold=0.7, resampling=Resampling(200, 0.8, 3))
    assert early == Onset(Estimate(1.0, 1, 2, 48, 24, 0.8), 0.7, 3)
    draws = auroc_replicates(scores, rows.labels, rows.pairs, Resampling(7, seed=3))
    np.testing.assert_allclose(draws[0, :3] * 576, [269, 289, 152], atol=1e-6)
