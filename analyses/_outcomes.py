"""What the analyses of defenses make of a table of answers: rates and paired tests by attack and pooled, and how likely the texts are."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from safesteer_interp.runner.context import Context
from safesteer_interp.statistics import COLUMNS

from ._answering import Batched, perplexities
from ._shared import attacks_in

PICTURES, ALL = "pictures", "all"
POOLS = {PICTURES: ("SD", "TYPO"), ALL: ("CB", "SD", "TYPO")}
"""Attacks taken together. "all" is the "All" of SafeSteer's Table 3; "pictures" are the two in which the harm is not in the text."""
MEASURES = ("asr", "refusal", "degenerate", "rr", "degenerate_harmless")
PRICES = ("asr", "rr", "degenerate", "degenerate_harmless")
"""What a defense is compared with "none" by: what it is for, and what it costs."""
LIKELIHOOD = "nats per token"
"""Name of the mean negative log-likelihood of an answer under the undefended model: the logarithm of its perplexity."""


@runtime_checkable
class RatesTexts(Batched, Protocol):
    """Parameters of an analysis that asks how likely answers are to the undefended model."""

    @property
    def perplexity_seeds(self) -> int:
        """Seeds whose answers are looked at."""


def groups(responses: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Answers by attack, then pooled. A pool holds only the conditions that answered each of its attacks, so that all are comparable."""
    for attack in attacks_in(responses):
        yield attack, responses[responses["attack"] == attack]
    for name, attacks in POOLS.items():
        if not set(attacks) <= set(responses["attack"]):
            continue
        part = responses[responses["attack"].isin(attacks)]
        met = part.groupby("defense")["attack"].nunique()
        yield name, part[part["defense"].isin(met[met == part["attack"].nunique()].index)]


def rate_table(responses: pd.DataFrame) -> pd.DataFrame:
    """`metrics.rates` by condition for every attack and pool: value, low, high, n, clusters."""
    from safesteer_interp.evaluation.metrics import rates

    found = [rates(part, measures=MEASURES).assign(attack=name) for name, part in groups(responses) if len(part)]
    table = pd.concat(found, ignore_index=True).rename(columns={"defense": "condition"})
    return table[[c for c in ("condition", "attack", "measure", *COLUMNS) if c in table]]


def paired_tests(responses: pd.DataFrame, baseline: str = "none", measures: Sequence[str] = PRICES) -> pd.DataFrame:
    """`metrics.compare` for every attack and pool: `value` is condition minus baseline on the same requests and seeds.

    `p_holm` is adjusted over all rows.
    """
    from safesteer_interp.evaluation.metrics import compare
    from safesteer_interp.statistics import holm

    rows = [
        compare(part, baseline, by=("harmful",), measures=measures).assign(attack=name, baseline=baseline)
        for name, part in groups(responses)
        if part["defense"].nunique() > 1 and baseline in set(part["defense"])
    ]
    table = pd.concat([r for r in rows if len(r)], ignore_index=True).rename(columns={"defense": "condition", "difference": "value"})
    table["p_holm"] = holm(table["p"].to_numpy())
    columns = ("condition", "baseline", "attack", "measure", *COLUMNS, "p_mcnemar", "p_holm")
    return table[[c for c in columns if c in table]]


def losses(responses: pd.DataFrame) -> pd.DataFrame:
    """[pair, attack and seed; condition] what a defense is to lower: 1 for a harmful request not refused + 1 for its harmless twin refused.

    No more refusals of harmless requests can pay for fewer of harmful ones.
    """
    hits = responses.assign(loss=np.where(responses["harmful"], responses["outcome"] == "comply", responses["outcome"] == "refuse"))
    wide = hits.assign(loss=hits["loss"].astype(float)).pivot_table(
        index=["pair", "attack", "seed", "harmful"], columns="defense", values="loss"
    )
    return (wide.xs(True, level="harmful") + wide.xs(False, level="harmful")).dropna(how="all")


def loss_tests(responses: pd.DataFrame, pairs_of: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """The difference in loss of (condition, baseline) on the same pairs, attacks and seeds, by attack and over all of them."""
    from safesteer_interp.statistics import cluster_mean

    rows = []
    for name, part in groups(responses):
        wide = losses(part)
        for condition, baseline in pairs_of:
            if condition not in wide or baseline not in wide:
                continue
            difference = (wide[condition] - wide[baseline]).dropna()
            if len(difference):
                pairs = difference.index.get_level_values("pair").to_numpy()
                found = cluster_mean(difference.to_numpy(), pairs, bounds=(-2.0, 2.0))
                rows.append({"condition": condition, "baseline": baseline, "attack": name, "measure": "loss"} | found.as_row())
    return pd.DataFrame(rows)


def likelihoods(ctx: Context, p: RatesTexts, requests: Sequence[Any], responses: pd.DataFrame, against: float = 0.0) -> pd.DataFrame:
    """How likely answers are to the undefended model, by condition: mean nats per token, and the paired difference to "none".

    A safety judge calls broken text safe and no list of strings notices it; the model itself does. Harmful picture requests and all
    harmless ones, of the first `perplexity_seeds` seeds (each answer costs another forward pass). `against`: what a difference is tested
    against.
    """
    from safesteer_interp.statistics import cluster_mean

    wanted = responses[(responses["seed"] < p.perplexity_seeds) & (~responses["harmful"] | responses["attack"].isin(POOLS[PICTURES]))]
    wanted = wanted.assign(nats=np.log(perplexities(ctx, p, requests, wanted))).dropna(subset=["nats"])
    seed, rows = ctx.seed("likelihood"), []
    for harmful, side in wanted.groupby("harmful"):
        plain = side[side["defense"] == "none"].set_index(["request", "seed"])["nats"]
        for condition, part in side.groupby("defense", sort=False):
            labels = {"condition": condition, "class": "harmful" if harmful else "harmless"}
            rows.append({**labels, "measure": LIKELIHOOD} | cluster_mean(part["nats"], part["pair"], seed=seed).as_row())
            part = part.assign(less=part["nats"].to_numpy() - part.set_index(["request", "seed"]).index.map(plain).to_numpy(float))
            part = part.dropna(subset=["less"])
            if condition != "none" and len(part):
                rows.append(
                    {**labels, "measure": "difference to none"}
                    | cluster_mean(part["less"], part["pair"], against=against, seed=seed).as_row()
                )
    return pd.DataFrame(rows)


def announce(ctx: Context, first: pd.DataFrame, answers: int) -> None:
    """Says on stderr what the answers still to come will take at most, from the time the first ones took (stored answers take none)."""
    if ctx.session.settings.progress:
        seconds = float(first["seconds"].mean())
        print(
            f"{ctx.analysis.id}: up to {answers} more answers; about {seconds * answers / 60:.1f} min at {1 / max(seconds, 1e-9):.1f} "
            "answers/s unless stored from an earlier run",
            file=sys.stderr,
        )
