"""Rankings: claimed only where all judges agree, on enough pairs, after Holm's adjustment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from safesteer_interp.evaluation.ranking import ENOUGH, agreed, pairwise, tiers


def hits(rates: dict[str, dict[str, float]], pairs: int = 60, seed: int = 0, seeds: int = 1) -> pd.DataFrame:
    """Answers of methods under judges with given rates; the same pair is easy or hard for all of them."""
    rng = np.random.default_rng(seed)
    hard = rng.random(pairs)
    return pd.DataFrame(
        [
            {"method": method, "judge": judge, "measure": "asr", "benchmark": "b", "request": f"r{i}", "seed": s, "pair": f"p{i}"}
            | {"hit": float(0.5 * hard[i] + 0.5 * rng.random() < rate)}
            for method, judges in rates.items()
            for judge, rate in judges.items()
            for i in range(pairs)
            for s in range(seeds)
        ]
    ).astype({"hit": "Float64"})


def test_differences_are_paired_and_adjusted() -> None:
    table = hits({"none": {"a": 0.9}, "good": {"a": 0.1}, "same": {"a": 0.9}})
    found = pairwise(table).set_index(["first", "second"])
    assert len(found) == 3
    better = found.loc[("none", "good")]
    rates = table.groupby("method")["hit"].mean()
    assert better["difference"] == pytest.approx(rates["none"] - rates["good"]) and better["low"] > 0.4
    assert better["clusters"] == 60 and better["p"] <= better["p_holm"] < 0.01
    assert (found["p_holm"] >= found["p"]).all() and found.loc[("none", "same"), "p_holm"] > 0.05


def test_an_order_is_claimed_only_where_all_judges_agree() -> None:
    disagree = hits({"none": {"a": 0.9, "b": 0.5}, "good": {"a": 0.1, "b": 0.98}, "best": {"a": 0.02, "b": 0.02}})
    found = agreed(pairwise(disagree)).set_index(["first", "second"])
    assert found.loc[("none", "good"), "lower"] == "" and "judges disagree" in found.loc[("none", "good"), "why"]
    assert found.loc[("none", "good"), "why"] == "judges disagree: fewer in none by b, in good by a"
    assert found.loc[("none", "best"), "lower"] == "best" and found.loc[("none", "best"), "judges"] == 2
    blind = hits({"none": {"a": 0.9, "b": 0.5}, "good": {"a": 0.1, "b": 0.5}})
    only = agreed(pairwise(blind)).iloc[0]
    assert only["lower"] == "" and "by b" in only["why"]


def test_few_pairs_make_no_order() -> None:
    few = hits({"none": {"a": 1.0}, "good": {"a": 0.0}}, pairs=ENOUGH - 1)
    assert agreed(pairwise(few)).iloc[0]["lower"] == "" and "24 are needed" in agreed(pairwise(few)).iloc[0]["why"]
    assert agreed(pairwise(hits({"none": {"a": 1.0}, "good": {"a": 0.0}}, pairs=ENOUGH))).iloc[0]["lower"] == "good"


def test_no_order_is_invented_under_the_null() -> None:
    """Four methods alike, two judges, 24 pairs: an order is claimed in at most 5 % of tables (here: of 60)."""
    wrong = 0
    for draw in range(60):
        alike = hits({name: {"a": 0.5, "b": 0.5} for name in "wxyz"}, pairs=24, seed=draw)
        wrong += (agreed(pairwise(alike))["lower"] != "").any()
    assert wrong <= 3


def test_what_was_not_judged_counts_for_nobody() -> None:
    table = hits({"none": {"a": 0.9}, "good": {"a": 0.1}})
    table.loc[table.index[:30], "hit"] = pd.NA
    found = pairwise(table).iloc[0]
    assert found["n"] == 30 and found["clusters"] == 30


def test_places_follow_what_was_agreed() -> None:
    orders = pd.DataFrame(
        [("asr", "a", "b", "a"), ("asr", "b", "c", "b"), ("asr", "a", "c", "a"), ("asr", "a", "d", ""), ("rr", "d", "a", "d")],
        columns=["measure", "first", "second", "lower"],
    )
    assert tiers(orders, ["a", "b", "c", "d"]) == {"a": 1, "b": 2, "c": 3, "d": 1}
