"""Which method is safer than which: every two methods on the same requests, paired, Holm-adjusted, under every judge that ran.

A ranking is claimed only where it holds under all judges: judges disagree more than methods do (one attack: 92 % by its authors, 64 % by
HarmBench's classifier, 47 % by Llama Guard 3), so an order that only one of them sees is an order of that judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.statistics import DIFFERENCE, cluster_mean, holm, sign_flip_test

ALPHA = 0.05
ENOUGH = 24
"""Pairs below which no order is claimed: their sign-flip test cannot survive the adjustment, and their intervals are too short."""


def pairwise(hits: pd.DataFrame, by: Sequence[str] = ("judge", "measure")) -> pd.DataFrame:
    """Every two methods compared, one row per group of `by` and two methods.

    `hits` has one row per answer, judge and measure: method, judge, measure, benchmark, request, seed, pair, hit (0 to 1, or missing: not
    judged). Only answers judged for both methods count. `difference` is first minus second, with its t interval over pairs; `p`: sign-flip
    test by pair; `p_holm`: adjusted within each group of `by`, over all comparisons of it. Pairs of different benchmarks are different.
    """
    rows: list[dict[str, Any]] = []
    for group, part in hits.groupby(list(by), sort=False):
        labels = dict(zip(by, group if isinstance(group, tuple) else (group,), strict=True))
        wide = part.pivot(index=["benchmark", "pair", "request", "seed"], columns="method", values="hit")
        names = [name for name in dict.fromkeys(hits["method"]) if name in wide]
        for first, second in combinations(names, 2):
            both = wide[[first, second]].dropna()
            if not len(both):
                continue
            differences = (both[first] - both[second]).to_numpy(dtype=float)
            clusters = np.array(["\0".join(map(str, key[:2])) for key in both.index])
            same = not np.any(differences)
            found = cluster_mean(differences, clusters, bounds=DIFFERENCE).as_row()
            found["difference"] = found.pop("value")
            rows.append({**labels, "first": first, "second": second, **found, "p": 1.0 if same else sign_flip_test(differences, clusters)})
    table = pd.DataFrame(rows)
    if len(table):
        table["p_holm"] = table.groupby(list(by), sort=False)["p"].transform(lambda p: holm(p.to_numpy()))
    return table


def agreed(comparisons: pd.DataFrame, *, enough: int = ENOUGH, alpha: float = ALPHA) -> pd.DataFrame:
    """What may be said of every two methods: one row per measure and two methods, over all judges that compared them.

    `lower`: the method with fewer hits under every judge, each adjusted p below `alpha` on at least `enough` pairs; empty where the judges
    disagree, where one of them sees no difference, or where pairs are too few; `why` says which.
    """
    rows = []
    for (measure, first, second), part in comparisons.groupby(["measure", "first", "second"], sort=False):
        signs = set(np.sign(part["difference"]).astype(int))
        lower, why = "", ""
        if int(part["clusters"].min()) < enough:
            why = f"{int(part['clusters'].min())} pairs; {enough} are needed"
        elif signs == {-1, 1}:
            up, down = (", ".join(part.loc[np.sign(part["difference"]) == s, "judge"]) for s in (1, -1))
            why = f"judges disagree: fewer in {first} by {down}, in {second} by {up}"
        elif (part["p_holm"] >= alpha).any():
            why = f"no difference beyond chance by {', '.join(part.loc[part['p_holm'] >= alpha, 'judge'])}"
        else:
            lower = first if -1 in signs else second
        rows.append(
            {
                "measure": measure,
                "first": first,
                "second": second,
                "judges": len(part),
                "pairs": int(part["clusters"].min()),
                "largest_p": float(part["p_holm"].max()),
                "lower": lower,
                "why": why,
            }
        )
    return pd.DataFrame(rows)


def tiers(orders: pd.DataFrame, methods: Sequence[str], measure: str = "asr") -> dict[str, int]:
    """Place of every method by what was agreed: 1 for those that no method is lower than, 2 for those below only these, and so on."""
    better = {name: set[str]() for name in methods}
    for _, row in orders[(orders["measure"] == measure) & (orders["lower"] != "")].iterrows():
        higher = row["second"] if row["lower"] == row["first"] else row["first"]
        better[higher].add(row["lower"])
    places: dict[str, int] = {}

    def place(name: str, path: frozenset[str]) -> int:
        if name not in places:
            above = [place(other, path | {name}) for other in better[name] if other not in path]
            places[name] = 1 + max(above, default=0)
        return places[name]

    return {name: place(name, frozenset()) for name in methods}
