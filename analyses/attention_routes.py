"""Over which route of attention does harm reach the first answer token, and over which refusal: from image, user text or between?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._causes import DONOR, QUANTITIES, Rows, forms, meter, pair_by_pair, share, specs
from ._shared import attacks_in, row

ROUTES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "image to last": (("image",), ("last",)),
    "image to user": (("image",), ("user",)),
    "image to template": (("image",), ("template",)),
    "user to template": (("user",), ("template",)),
    "user to last": (("user",), ("last",)),
    "template to last": (("template",), ("last",)),
    "image to all": (("image",), ("user", "template", "last")),
    "user to all": (("user",), ("template", "last")),
}
"""Route -> (who is looked at, who looks)."""
ALL = "all layers"
WIDEST = 4.0
"""Half of a form's intervals are wider than this where its shares tell nothing; they stand in the table alone."""
BY_CONSTRUCTION = (
    "A check of the knock-out and no finding: a harmful request and its twin share their {0} and differ in their {1} alone, so that "
    "nothing of their difference can be left once no later token sees those."
)
"""Said of the one route over which all that differs must come."""

WIDEST_ROW = 2.0
"""A share with a wider interval is told nothing of: it would squash all others. A cell of the heat map is white by the same rule."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 24
    """Pairs of the test split."""
    attacks: tuple[str, ...] = ("SD", "TYPO")
    """Forms whose harm lies in the image."""
    width: int = 6
    """Layers of a window in which a route is cut; a third of the model's at most."""
    windows: int | None = 6
    """Windows, evenly spaced; None: one at every layer."""
    seed: int = 0
    """Seed of the intervals."""


def needs(p: Params) -> list[TraceSpec]:
    return specs(p)


def cost(p: Params, pairs: int, n_layers: int) -> str:
    """How often a route is cut, and in how many recorded passes."""
    passes = 2 * pairs * (1 + len(p.attacks))
    windows = 1 + min(p.windows or n_layers, n_layers - max(1, min(p.width, n_layers // 3)) + 1)
    return f"{passes} recorded prompt passes, {passes * len(ROUTES) * windows} knock-outs of a fraction of a pass each"


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: by form, route and window of layers, the share of what separates a harmful request from its harmless twin that is lost when
    the route is cut: refusal (log-odds of the first token) and readable harm (the probe's). `contrasts`: the numbers claimed."""
    cells, gaps = _measured(ctx, p)
    seed, found = ctx.seed("intervals"), []
    for (attack, route, window), cell in cells.groupby(["attack", "route", "window"], sort=False):
        of = gaps[gaps["attack"] == attack].set_index("pair").loc[cell["pair"]]
        for quantity in QUANTITIES:
            base = {"attack": attack, "route": route, "window": window, "layer": cell["layer"].iloc[0], "quantity": quantity}
            found.append(base | share(cell[quantity], of[quantity], cell["pair"], seed=seed))
    return {"table": pd.DataFrame(found), "contrasts": _contrasts(cells, gaps, seed)}


def _measured(ctx: Context, p: Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Per pair: what cutting a route takes from the difference between a harmful request and its twin, in nats; that difference."""
    import numpy as np

    from safesteer_interp.interventions import Knockout, record, replay

    measure, model, n = meter(ctx, p), ctx.model, ctx.n_layers
    width = max(1, min(p.width, n // 3))
    starts = sorted({round(x) for x in np.linspace(0, n - width, n - width + 1 if p.windows is None else min(p.windows, n - width + 1))})
    windows = {ALL: tuple(range(n))} | {f"{first}-{first + width - 1}": tuple(range(first, first + width)) for first in starts}
    asked = [(route, name, Knockout(*ends, layers)) for route, ends in ROUTES.items() for name, layers in windows.items()]

    def measured(pair: str, requests: dict[tuple[str, bool], Request]) -> Rows:
        cells, gaps = [], []
        for attack in (str(DONOR), *p.attacks):
            sides = [record(model, requests[attack, harmful]) for harmful in (True, False)]
            plain = [measure(one.final)[0] for one in sides]
            gap = plain[0] - plain[1]
            gaps.append({"attack": attack, "pair": pair} | dict(zip(QUANTITIES, gap.tolist(), strict=True)))
            cut = [replay(model, one, [knockout for *_, knockout in asked], score=measure) for one in sides]
            lost = gap - (cut[0] - cut[1])
            for (route, name, knockout), values in zip(asked, lost.tolist(), strict=True):
                middle = sum(knockout.layers) / len(knockout.layers)
                cell = {"attack": attack, "route": route, "window": name, "layer": middle, "pair": pair}
                cells.append(cell | dict(zip(QUANTITIES, values, strict=True)))
        return {"cells": cells, "gaps": gaps}

    found = pair_by_pair(ctx, "pairs", forms(ctx, p), measured)
    return found["cells"], found["gaps"]


def _contrasts(cells: pd.DataFrame, gaps: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The numbers that are claimed: routes cut in all layers, in readable harm (pictures) and refusal (text), and paired differences."""
    found = []
    for attack in dict.fromkeys(cells["attack"]):
        gap = gaps[gaps["attack"] == attack].set_index("pair")

        def lost(route: str, quantity: str, attack: str = attack, gap: Any = gap) -> Any:
            where = (cells["attack"] == attack) & (cells["route"] == route) & (cells["window"] == ALL)
            return cells[where].set_index("pair")[quantity].loc[gap.index].to_numpy()

        for quantity in QUANTITIES:
            for route, other in (
                ("image to all", "user to all"),
                ("user to all", "image to all"),
                ("image to last", "image to user"),
                ("user to last", "template to last"),
                ("template to last", "user to last"),
            ):
                of = {"attack": attack, "quantity": quantity, "route": route}
                found.append(of | {"minus": ""} | share(lost(route, quantity), gap[quantity], gap.index, against=0.5, seed=seed))
                difference = share(lost(route, quantity), gap[quantity], gap.index, minus=lost(other, quantity), seed=seed)
                found.append(of | {"minus": other} | difference)
    return pd.DataFrame(found)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    found = []
    for attack in attacks_in(t["contrasts"]):
        pictured = attack != str(DONOR)

        def claim(name: str, route: str, other: str, quantity: str, statement: str, note: str = "", attack: str = attack) -> Claim:
            """A finding, or a check of the machinery where a note says why it cannot come out otherwise."""
            where = {"attack": attack, "quantity": quantity, "route": route}
            t_ = t["contrasts"].fillna({"minus": ""})
            return Claim(
                id=f"{name}_{attack.lower()}",
                kind="sanity" if note else "finding",
                statement=statement,
                estimate=estimate_of(row(t_, **where, minus="")),
                direction="above",
                threshold=0.5,
                unit="share of the difference between a harmful request and its twin",
                controls=(
                    Control(
                        f"minus the route {other}",
                        estimate_of(row(t_, **where, minus=other)),
                        kind="context" if note else "paired",
                    ),
                ),
                note=note,
            )

        if pictured:
            found += [
                claim(
                    "harm_comes_from_the_image", "image to all", "user to all", "probe",
                    f"Most of the harm readable at the last token of a {attack} request is gone when no later token may look at the image.",
                    BY_CONSTRUCTION.format("words", "pictures"),
                ),
                claim(
                    "harm_is_read_directly", "image to last", "image to user", "probe",
                    f"Most of the harm readable at the last token of a {attack} request comes there directly from the image tokens.",
                ),
            ]  # fmt: skip
        else:
            found += [
                claim(
                    "refusal_comes_from_the_words", "user to all", "image to all", "refusal",
                    "Most of the refusal of harm written beside a blank image is gone when no later token may look at the user's words.",
                    BY_CONSTRUCTION.format("picture", "words"),
                ),
                claim(
                    "refusal_is_read_directly", "user to last", "template to last", "refusal",
                    "Most of the refusal of harm written beside a blank image comes to the last token directly from the user's words and "
                    "not by way of the template's tokens.",
                ),
            ]  # fmt: skip
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels
    from safesteer_interp.plotting.style import in_column

    windows = t["table"][t["table"]["window"] != ALL]
    attacks = attacks_in(windows)
    fig, axes = new_figure(rows=2, cols=len(attacks), width="full", height=4.6, squeeze=False)
    titles = {"probe": "harm lost", "refusal": "refusal lost"}
    for quantity, line in zip(("probe", "refusal"), axes, strict=True):
        silent = _silent(t["table"], quantity)
        for attack, ax in zip(attacks, line, strict=True):
            if attack in silent:
                ax.set_axis_off()
                ax.set_title(f"{attack}: {titles[quantity]}")
                ax.text(0.5, 0.5, "next to nothing to lose", ha="center", va="center", transform=ax.transAxes)
                continue
            part = windows[(windows["attack"] == attack) & (windows["quantity"] == quantity)]
            panels.layer_step_heatmap(
                ax,
                part,
                x="window",
                y="route",
                label="share",
                center=0.0,
                vmin=-WIDEST_ROW / 2,
                vmax=WIDEST_ROW / 2,
                xlabel="layers cut",
                ylabel="",
                colorbar=attack == attacks[-1],
            )
            if attack != attacks[0] and not in_column():
                ax.set_yticklabels([])
            ax.set_title(f"{attack}: {titles[quantity]}")
            if not in_column():
                ax.tick_params(axis="x", labelrotation=45)
    whole, ax = new_figure(rows=1, cols=2, width="full", height=3.4, squeeze=False)
    for quantity, panel in zip(("probe", "refusal"), ax[0], strict=True):
        part = t["table"][(t["table"]["window"] == ALL) & (t["table"]["quantity"] == quantity)]
        silent = _silent(t["table"], quantity)
        told = part[~part["attack"].isin(silent)]
        wide = told["high"] - told["low"] > WIDEST_ROW
        left_out, told = told[wide], told[~wide]
        if not told.empty:
            panels.forest(panel, told.assign(label=told["attack"] + ": " + told["route"]), by="attack", kind="attack", reference=0.0,
                          xlabel=f"{titles[quantity]}, cut in all layers (share)")  # fmt: skip
        notes = [f"{', '.join(silent)}: next to nothing to lose"] if silent else []
        if len(left_out):
            rows = "; ".join(f"{name}: {', '.join(part['route'])}" for name, part in left_out.groupby("attack", sort=False))
            notes.append(f"left out, interval wider than {WIDEST_ROW:g} ({len(left_out)} rows): {rows}")
        panel.set_title("; ".join(notes), fontsize=7.5, fontweight="normal")
    return {"figure": fig, "all_layers": whole}


def _silent(table: pd.DataFrame, quantity: str) -> list[str]:
    """Forms of which most shares tell nothing: harmful requests and their twins hardly differ, and a share is one of that difference."""
    part = table[table["quantity"] == quantity]
    return [attack for attack in attacks_in(part) if (part["high"] - part["low"])[part["attack"] == attack].median() > WIDEST]


ANALYSIS = Analysis(
    id="attention_routes",
    title="Which route of attention carries harm and refusal",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2304.14767"),
    requires_images=True,
    cost=cost,
    attacks=(Attack.CB, Attack.SD, Attack.TYPO),
    data=COMPARED,
    profiles={"full": {"pairs": None, "windows": None}},
    order=21,
    captions={
        "figure": "Attention from one token role to another is cut in a window of layers. Units: the difference between harmful requests "
        "and harmless twins in the same form, in refusal log-odds of the first token or the probe's at the final norm; 1: all of it is "
        "lost. Hatched: the 95 % interval over pairs reaches across 0.",
        "all_layers": "The same with a route cut in all layers at once. A form whose harmful requests and twins hardly differ has "
        "nothing to lose: shares of that are left out here and stand in the table. By construction all is lost over the one route that "
        "what differs must take: image to all where twins differ in the picture, user to all where they differ in the words.",
    },
)
