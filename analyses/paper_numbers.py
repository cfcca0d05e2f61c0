"""What do the papers print, what does this model show beside it, and which printed numbers do not fit together?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED

from ._methods import FORMS, MethodParams, answers_of, asked, judged_by_all, methods, needs, paired_rows
from ._published import SAFESTEER, checks, printed
from ._shared import row

AVERAGES, COUNTS = "average", "count"
CHECKS = {AVERAGES: "averages match\ntheir parts", COUNTS: "rates are\nwhole counts", "same": "tables match\none another",
          "repeated": "ablations are\nno copies"}  # fmt: skip


@dataclass(frozen=True)
class Params(MethodParams):
    methods: tuple[str, ...] = (
        *("safesteer", "safesteer-paper", "ecso", "coca", "mllm_protector", "mrd"),
        *("adashield", "refusal_bias", "jrs_rem", "conformal"),
    )
    """Measured beside the printed numbers: those of defense_comparison, whose answers are kept."""


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: every printed number with the undefended one of its column. `ours`: our change by method. `checks`: what fits together.

    Ours is the share of harmful pictures not refused, by strings; the papers have judges of harm, other models and other requests, so that
    only signs and orders can be held against each other.
    """
    from safesteer_interp.statistics import wilson

    requests = asked(ctx, p)
    found = answers_of(ctx, p, methods(ctx, p, p.methods), requests)
    hits = judged_by_all(found, requests)
    first = hits[hits["judge"] == hits["judge"].iloc[0]]
    rows = []
    for measure, part in first.groupby("measure", sort=False):
        wide = part.pivot(index=["benchmark", "pair", "request", "seed"], columns="method", values="hit").astype(float)
        pairs = wide.index.get_level_values("pair").to_numpy()
        rows += [paired_rows(wide, name, "none", pairs, measure=measure) for name in wide.columns if name != "none"]
    held = checks()
    fits = [{"check": name} | wilson(int(part["fits"].sum()), len(part)).as_row() for name, part in held.groupby("check", sort=False)]
    return {"table": printed(), "ours": pd.DataFrame(rows), "checks": held, "fits": pd.DataFrame(fits)}


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    fits = t["fits"]
    return [
        Claim(
            id=f"printed_{name}s_fit",
            kind="sanity",
            clusters="cells",
            statement=words,
            estimate=estimate_of(row(fits, check=name)),
            direction="above",
            threshold=0.9,
            unit="share of cells that fit",
            note=f"{SAFESTEER}; Wilson's interval over cells.",
        )
        for name, words in (
            (AVERAGES, 'In nine cells of ten of SafeSteer\'s Table 3, "All" is the mean of CB, SD and TYPO.'),
            (COUNTS, "In nine cells of ten of SafeSteer's Table 1, the printed rate is a whole number of items over the size of its set."),
        )
    ]


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels
    from safesteer_interp.plotting.palette import style_of

    fig, axes = new_figure(rows=1, cols=2, width="full", height=3.6)
    ours = t["ours"][t["ours"]["measure"] == "asr"]
    names = list(ours["first"])
    shown = t["table"]
    attacks = shown[shown["benchmark"].str.contains("ASR|unsafe") & shown["method"].isin(names)]
    places = {name: i for i, name in enumerate(names)}
    for kind, part in attacks.groupby("model", sort=True):
        # Printed models have the look of their series; every point stands above the bar of the method.
        style = style_of("model", str(kind).lower().rsplit("-", 1)[0])
        look: dict[str, Any] = {"color": style.color, "marker": style.marker, "label": str(kind), "s": 13, "alpha": 0.7, "linewidths": 0}
        axes[0].scatter(part["change"] / 100, part["method"].map(places) - 0.25, **look)
    mine = ours.assign(label=[style_of("method", name).label for name in names])
    panels.forest(axes[0], mine, reference=0.0, xlabel="change in attack success (papers) or not refused (ours)", legend=False)
    axes[0].set_title("printed (points) and ours (bars)")
    fits = t["fits"].assign(label=t["fits"]["check"].replace(CHECKS))
    panels.forest(axes[1], fits, xlabel="share of printed cells that fit", legend=False)
    axes[1].set_xlim(-0.03, 1.03)
    axes[1].set_title("do the printed numbers fit together?")
    panels.legend_below(fig)
    return fig


ANALYSIS = Analysis(
    id="paper_numbers",
    title="Printed numbers beside ours",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Tables 1 to 3",
    cites=(SAFESTEER, "arXiv:2403.09572", "arXiv:2603.17372", "arXiv:2410.09047", "arXiv:2507.01513"),
    requires_images=True,
    attacks=(Attack.CB, *FORMS),
    data=COMPARED,
    profiles={"full": {"pairs": None, "answer_pairs": None, "one_form": False, "seeds": 3, "new_tokens": 128, "auxiliary_tokens": 128}},
    order=19,
    captions={
        "figure": "Left: what papers print for each method (one point per model and benchmark, each with its own judge) and our change on "
        "the same requests (95 % over pairs). Right: printed cells that agree with each other: averages with their parts, rates with whole "
        "counts, tables with tables, and ablations that are not copies (Wilson's interval over cells)."
    },
)
