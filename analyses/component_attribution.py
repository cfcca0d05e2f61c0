"""Which attention heads and MLPs write the refusal that a picture fails to cause, and how well does a gradient find them?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._causes import DONOR, Rows, pair_by_pair, refusal_meter, share
from ._refusal_tokens import tokens_spec
from ._shared import report_spec, row

METHODS = {"gradient": "gradient", "integrated": "integrated gradients"}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Components that a circuit has."""
CLAIMED, SHOWN = 16, 8
"""The size that claims are about, and how many random circuits there are of the other sizes, which are drawn only."""
HALF = 0.5


@dataclass(frozen=True)
class Params:
    pairs: int | None = 24
    """Pairs of the test split, on which circuits are judged."""
    ranking_pairs: int = 12
    """Pairs of the validation split, on which components are ranked."""
    attack: str = "SD"
    """Form whose harm lies in the image."""
    steps: int = 4
    """Points of the integrated gradient."""
    random_circuits: int = 39
    """Random circuits of the size that is claimed; of other sizes the first few of them."""
    seed: int = 0
    """Seed of the intervals and of the random circuits."""


def needs(p: Params) -> list[TraceSpec]:
    return [_spec(p, Split.VALIDATION, p.ranking_pairs), _spec(p, Split.TEST, p.pairs), tokens_spec(p)]


def cost(p: Params, pairs: int, n_layers: int) -> str:
    """Passes on the ranking pairs (the first spec) and recordings."""
    return (
        f"{pairs} ranking pairs with {1 + p.steps} forward and backward passes each, and every component patched once; recorded test pairs"
    )


def _spec(p: Params, split: Split, pairs: int | None) -> TraceSpec:
    return report_spec(p, attacks=(DONOR, Attack(p.attack)), split=split, harmful=True, pairs=pairs, sites=("final_norm",))


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: refusal restored by patching the n components ranked highest into the picture's last token, by how they were ranked, as a
    share of the gap; `components`: mean effect of each, exact and approximated, on the ranking pairs; `agreement`: rank correlations."""
    effects = _effects(ctx, p)
    means = effects.groupby(["component", "layer", "part"], sort=False)[["exact", *METHODS]].mean().reset_index()
    orders = {name: list(means.sort_values(name, ascending=False, kind="stable")["component"]) for name in ("exact", *METHODS)}
    rng = ctx.rng("random circuits")
    orders |= {f"random {i}": list(rng.permutation(means["component"])) for i in range(p.random_circuits)}
    cells, gaps = _circuits(ctx, p, orders)
    return {
        "table": _curves(cells, gaps, ctx.seed("intervals")),
        "components": means,
        "agreement": _agreement(effects, ctx.seed("intervals")),
        "contrasts": _contrasts(cells, gaps, ctx.seed("intervals")),
    }


def _pairs(requests: list[Request], p: Params) -> dict[str, tuple[Request, Request]]:
    """pair -> (picture form, text form) of harmful requests that have both."""
    of = {(r.pair, str(r.attack)): r for r in requests}
    pairs = dict.fromkeys(r.pair for r in requests)
    both = {pair: (of.get((pair, p.attack)), of.get((pair, str(DONOR)))) for pair in pairs}
    return {pair: (a, b) for pair, (a, b) in both.items() if a is not None and b is not None}


def _effects(ctx: Context, p: Params) -> pd.DataFrame:
    """Exact and approximated effect of patching each component into the last token, per ranking pair, in nats of refusal log-odds."""
    from safesteer_interp.interventions import Patch, record, replay
    from safesteer_interp.interventions.attribution import attribute, components

    measure, model = refusal_meter(ctx, p), ctx.model
    places = components(model)

    def measured(pair: str, forms: tuple[Request, Request]) -> Rows:
        picture, text = forms
        receiver, donor = record(model, picture), record(model, text)
        exact = replay(model, receiver, [Patch((place,), ("last",)) for place in places], donor=donor, score=measure)
        exact = exact - measure(receiver.final).detach()
        approximated = {
            name: dict(attribute(model, receiver, donor, lambda h: measure(h)[0], roles=("last",), steps=steps).ranked())
            for name, steps in (("gradient", 1), ("integrated", p.steps))
        }
        found = []
        for place, value in zip(places, exact.tolist(), strict=True):
            of = {"component": str(place), "layer": place.layer, "part": "head" if str(place).startswith("head") else "MLP", "pair": pair}
            found.append(of | {"exact": value} | {name: by_place[place] for name, by_place in approximated.items()})
        return {"effects": found}

    return pair_by_pair(ctx, "ranking", _pairs(ctx.requests(needs(p)[0]), p), measured)["effects"]


def _circuits(ctx: Context, p: Params, orders: dict[str, list[str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Refusal gained on test pairs by patching the first n components of each order together; the gaps."""
    from safesteer_interp.interventions import Head, Patch, record, replay
    from safesteer_interp.sites import Site

    measure, model = refusal_meter(ctx, p), ctx.model
    sizes = [n for n in SIZES if n < len(orders["exact"])] + [len(orders["exact"])]

    def patch(names: list[str]) -> Any:
        return Patch(tuple(Head.parse(n) if n.startswith("head") else Site.parse(n) for n in names), ("last",))

    spare, claimed = {f"random {i}" for i in range(SHOWN, p.random_circuits)}, min(CLAIMED, sizes[-1])
    asked = [(order, n, patch(names[:n])) for order, names in orders.items() for n in sizes if n == claimed or order not in spare]

    def measured(pair: str, forms: tuple[Request, Request]) -> Rows:
        receiver, donor = (record(model, form) for form in forms)
        before, after = (float(measure(one.final).detach()[0]) for one in (receiver, donor))
        gained = replay(model, receiver, [one for *_, one in asked], donor=donor, score=measure) - before
        cells = [{"order": o, "size": n, "pair": pair, "effect": x} for (o, n, _), x in zip(asked, gained.tolist(), strict=True)]
        return {"cells": cells, "gaps": [{"pair": pair, "gap": after - before}]}

    found = pair_by_pair(ctx, "circuits", _pairs(ctx.requests(needs(p)[1]), p), measured)
    return found["cells"], found["gaps"].set_index("pair")


def _curves(cells: pd.DataFrame, gaps: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Share of the gap restored by order and size; of random circuits the spread over circuits."""
    from safesteer_interp.statistics import Estimate

    rows = []
    for (order, size), part in cells[~cells["order"].str.startswith("random")].groupby(["order", "size"], sort=False):
        gap = gaps.loc[part["pair"], "gap"]
        rows.append({"order": METHODS.get(order, order), "size": size} | share(part["effect"], gap, part["pair"], seed=seed))
    for size, part in cells[cells["order"].str.startswith("random")].groupby("size", sort=False):
        drawn = part.groupby("order", sort=False)["effect"].mean() / gaps["gap"].mean()
        rows.append({"order": "random circuits", "size": size} | Estimate.of_draws(drawn, level=1.0).as_row())
    return pd.DataFrame(rows)


def _agreement(effects: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Spearman correlation over components of each approximation with the exact effect, pair by pair."""
    from scipy.stats import spearmanr

    from safesteer_interp.statistics import cluster_mean

    rows = []
    for name, label in METHODS.items():
        for part in ("all", "head", "MLP"):
            of = effects if part == "all" else effects[effects["part"] == part]
            found = {pair: float(spearmanr(lot["exact"], lot[name]).statistic) for pair, lot in of.groupby("pair", sort=False)}
            values = np.nan_to_num(np.array(list(found.values())))
            rows.append({"method": label, "part": part} | cluster_mean(values, list(found), against=HALF, seed=seed).as_row())
    return pd.DataFrame(rows)


def _contrasts(cells: pd.DataFrame, gaps: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What the claims say of circuits of one size, tested against the edge."""
    size = min(CLAIMED, int(cells["size"].max()))
    rows = []
    for order in ("exact", *METHODS):
        part = cells[(cells["order"] == order) & (cells["size"] == size)]
        gap = gaps.loc[part["pair"], "gap"]
        rows.append({"order": METHODS.get(order, order), "size": size} | share(part["effect"], gap, part["pair"], against=HALF, seed=seed))
    return pd.DataFrame(rows)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    size = int(t["contrasts"]["size"].iloc[0])
    chance = Control("random circuits", estimate_of(row(t["table"], order="random circuits", size=size)))
    found = [
        Claim(
            id=f"few_components_suffice_{order.split()[0]}",
            statement=f"The {size} components ranked highest by {word} on other pairs restore, patched together into the last token, most "
            "of the refusal that the picture form lost.",
            estimate=estimate_of(row(t["contrasts"], order=order)),
            direction="above",
            threshold=HALF,
            unit="share of the gap",
            controls=(chance,),
        )
        for order, word in (("exact", "exact patching"), ("integrated gradients", "integrated gradients"))
    ]
    found.append(
        Claim(
            id="gradient_ranks_like_patching",
            statement="Integrated gradients rank components much as exact patching does: rank correlation above one half.",
            estimate=estimate_of(row(t["agreement"], method="integrated gradients", part="all")),
            direction="above",
            threshold=HALF,
            unit="Spearman correlation over components",
            difference_to="no correlation, which is 0",
        )
    )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    import matplotlib as mpl

    from safesteer_interp.plotting import new_figure, palette, panels

    fig, axes = new_figure(rows=1, cols=3, width="full", height=3.0)
    parts = t["components"]
    heads = parts[parts["part"] == "head"]
    heads = heads.assign(head=heads["component"].str.rpartition(".")[2].astype(int))
    grid = heads.pivot_table(index="head", columns="layer", values="exact").to_numpy()
    limit = float(np.abs(grid).max()) or 1.0
    mesh = axes[0].imshow(grid, aspect="auto", origin="lower", cmap=mpl.colormaps[palette.DIVERGING], vmin=-limit, vmax=limit)
    fig.colorbar(mesh, ax=axes[0], label="refusal restored (nats)", fraction=0.05, pad=0.02)
    axes[0].set_xlabel("decoder layer")
    axes[0].set_ylabel("head")
    axes[0].set_title("heads, patched one by one")
    axes[0].grid(visible=False)
    for kind, marker in (("head", "o"), ("MLP", "s")):
        mine = parts[parts["part"] == kind]
        axes[1].scatter(
            mine["integrated"],
            mine["exact"],
            s=10,
            alpha=0.7,
            marker=marker,
            label=kind,
            color=palette.BLUE if kind == "head" else palette.ORANGE,
        )
    ends = [float(parts[["integrated", "exact"]].min().min()), float(parts[["integrated", "exact"]].max().max())]
    axes[1].plot(ends, ends, color=palette.MUTED, linewidth=0.8, linestyle="--")
    axes[1].set_xlabel("integrated gradients (nats)")
    axes[1].set_ylabel("exact patching (nats)")
    axes[1].set_title("approximation against exact")
    axes[1].legend(frameon=False)
    panels.layer_curve(
        axes[2],
        t["table"],
        x="size",
        by="order",
        kind="series",
        xlabel="components patched together",
        ylabel="share of the gap restored",
        reference=0.0,
    )
    axes[2].set_xscale("log")
    axes[2].set_title("circuits, on test pairs")
    return fig


ANALYSIS = Analysis(
    id="component_attribution",
    title="Heads and MLPs that write the refusal",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2310.10348", "arXiv:2403.17806", "arXiv:2605.11716"),
    requires_images=True,
    cost=cost,
    attacks=(Attack.CB, Attack.SD),
    data=COMPARED,
    profiles={"full": {"pairs": None, "ranking_pairs": 40, "steps": 10, "random_circuits": 100}},
    order=23,
    captions={
        "figure": "Outputs of heads (z) and MLPs at the last prompt token, from the text form (CB) put into the picture form. Left and "
        "middle: mean over validation pairs. Right: the components ranked highest, patched together, on test pairs; bands: 95 % over "
        "pairs, of random circuits their range."
    },
)
