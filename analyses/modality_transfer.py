"""Does a probe trained on one attack see the others, or does every modality need a probe of its own?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.statistics import COLUMNS
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import ATTACKS, attacks_in, fit_spec, report_spec, row, site_label

SITE = "final_norm"
SEPARATED = 0.75
"""AUROC from which requests count as separated."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    width: str = "4"
    """Principal components of the probe; "all" keeps the full width."""
    draws: int = 50
    """Shuffled labellings of the control."""
    seed: int = 0
    """Seed of the bootstrap and the control."""


def needs(p: Params) -> list[TraceSpec]:
    return [fit_spec(p), report_spec(p)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """AUROC on test pairs of a probe fitted on training pairs, for every ordered pair of attacks, at the final norm and per layer."""
    from safesteer_interp.probes import controls
    from safesteer_interp.probes.rows import Resampling, Rows
    from safesteer_interp.probes.separation import transfer
    from safesteer_interp.tracing.trace import labels_of

    fit, report = (ctx.trace(spec) for spec in needs(p))
    index = pd.concat([fit.index, report.index], ignore_index=True)
    given = labels_of(index)
    labels, pairs, attack, train = given.harmful, given.pairs, given.attacks, given.train
    width = p.width if p.width == "all" else int(p.width)
    resampling = Resampling(seed=ctx.seed("bootstrap"))
    rows = []
    for site in ctx.track(fit.sites_in_order, "layers"):
        states = np.concatenate([v.rows(site, "last_prompt") for v in (fit, report)])
        sample = Rows(states, labels, pairs, attack, train=train)
        found = transfer(sample, width=width, resampling=resampling, against=SEPARATED)
        rows.append(found.assign(layer=site_label(site)))
        if str(site) == SITE:
            null = controls.shuffled_labels(sample, width=width, draws=p.draws, resampling=resampling)
            drops = _drops(sample, width, resampling.seed)
    table_ = pd.concat(rows, ignore_index=True).rename(columns={"fitted_on": "trained_on"})
    keep = [c for c in ("layer", "trained_on", "tested_on", *COLUMNS) if c in table_]
    return {
        "table": table_.loc[table_["layer"] == SITE, keep].reset_index(drop=True),
        "by_layer": table_[keep],
        "drops": drops,
        "shuffled_labels": null.rename(columns={"group": "tested_on"})[["tested_on", *(c for c in COLUMNS if c in null)]],
    }


def _drops(sample: Any, width: Any, seed: int) -> pd.DataFrame:
    """By attack and source: AUROC of a probe of the attack's own minus that of a probe trained on the source, on the same test requests."""
    from safesteer_interp.probes.separation import out_of_fold
    from safesteer_interp.statistics import cluster_auroc_difference

    def scored(fit_on: Any) -> Any:
        return out_of_fold(sample.states, sample.labels, fold, widths=[width], fit_on=fit_on)[0, 0]

    fold, masks, rows = sample.fold_array(), sample.masks(), []
    text = scored(masks["TEXT"]) if "TEXT" in masks else None
    for name, mask in masks.items():
        test, own = mask & (fold >= 0), scored(mask)
        for source, scores in (("TEXT", text), (f"all but {name}", scored(~mask) if len(masks) > 1 else None)):
            if scores is not None and name != source:
                found = cluster_auroc_difference(own[test], scores[test], sample.labels[test], sample.pairs[test], seed=seed)
                rows.append({"trained_on": source, "tested_on": name} | found.as_row())
    return pd.DataFrame(rows)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    table, null, drops = t["table"], t["shuffled_labels"], t["drops"]
    images = [a for a in attacks_in(table, "tested_on") if a in {str(x) for x in ATTACKS if x.in_image}]
    found = []
    for name in images:
        chance = Control("shuffled_labels", estimate_of(row(null, tested_on=name)))
        own = Control("probe of its own", estimate_of(row(table, trained_on=name, tested_on=name)), kind="context")
        for source, words in (("TEXT", "A probe trained on plain text"), (f"all but {name}", "A probe trained on all other attacks")):
            found.append(
                Claim(
                    id=f"{'text' if source == 'TEXT' else 'others'}_to_{name.lower()}",
                    statement=f"{words} also separates harmful from harmless {name} requests (AUROC above {SEPARATED:g}).",
                    estimate=estimate_of(row(table, trained_on=source, tested_on=name)),
                    direction="above",
                    threshold=SEPARATED,
                    effect=0.9,
                    unit="AUROC",
                    controls=(chance, own),
                )
            )
        found.append(
            Claim(
                id=f"text_drops_on_{name.lower()}",
                kind="replication",
                source="arXiv:2502.13095",
                printed="a probe trained on text falls to about 65 % accuracy on requests with images",
                statement=f"A probe trained on plain text separates {name} requests worse than a probe of their own.",
                estimate=estimate_of(row(drops, trained_on="TEXT", tested_on=name)),
                direction="above",
                threshold=0.0,
                effect=0.15,
                unit="AUROC, paired difference",
                difference_to="a probe of their own",
                controls=(own,),
                note="The drop is the paper's point; its accuracy and our AUROC cannot be compared.",
            )
        )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    fig, axes = new_figure(rows=2, cols=1, width="full", height=4.3, height_ratios=(5, 1))
    table = t["table"]
    left_out = table["trained_on"].str.startswith("all but")
    options: dict[str, Any] = {"row": "trained_on", "column": "tested_on", "label": "AUROC", "vmin": 0.5, "vmax": 1.0}
    panels.transfer_matrix(axes[0], table[~left_out], **options)
    axes[0].set_title("final norm, last prompt token")
    others = table[left_out & (table["trained_on"] == "all but " + table["tested_on"])].assign(trained_on="all others")
    if len(others):
        panels.transfer_matrix(axes[1], others, **options, ylabel="", colorbar=False)
    else:
        axes[1].set_visible(False)
    return fig


ANALYSIS = Analysis(
    id="modality_transfer",
    title="Do probes cross modalities?",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2502.13095"),
    requires_images=True,
    attacks=(Attack.TEXT, Attack.SD),
    data=COMPARED,
    profiles={"full": {"pairs": None, "draws": 200}},
    order=5,
    captions={"figure": "AUROC on test pairs, 95 % intervals over pairs below each value. Below 0.5 the direction turns round."},
)
