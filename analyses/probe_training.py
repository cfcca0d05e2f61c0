"""How much does the paper's probe need: epochs, examples, components, and how far does it depend on the seed?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import fit_spec, report_spec, row

SITE = "final_norm"
SEPARATED, LITTLE = 0.75, 0.05
"""AUROC from which requests count as separated; a difference in AUROC too small to matter."""
FEW = 16
"""Training pairs that are claimed to suffice."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    seeds: int = 5
    """Random starts of the optimiser, and random subsets of training pairs."""
    widths: tuple[str, ...] = ("1", "2", "4", "8", "16", "all")
    """Principal components to compare."""
    counts: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    """Numbers of training pairs to compare; those beyond what there is are left out."""
    draws: int = 39
    """Shuffled labellings of the control."""
    seed: int = 0
    """Seed of the bootstrap, the subsets and the starts."""


def needs(p: Params) -> list[TraceSpec]:
    return [fit_spec(p), report_spec(p)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """Loss by epoch; AUROC on test pairs by number of training pairs and by width; cosine of the directions of different starts."""
    from safesteer_interp.probes.decoding_probe import DecodingProbe
    from safesteer_interp.statistics import Estimate, cluster_auroc, cluster_auroc_difference

    fit, report = (ctx.trace(spec) for spec in needs(p))
    x, y = fit.rows(SITE, "last_prompt"), fit.labels.harmful.astype(int)
    test, truth = report.rows(SITE, "last_prompt"), report.labels.harmful
    pairs, test_pairs = fit.labels.pairs, report.labels.pairs
    seed = ctx.seed("bootstrap")
    names = np.unique(pairs)

    curves, directions = [], []
    for start in ctx.track(range(p.seeds), "starts"):
        probe = DecodingProbe(4, solver="rds", random_state=start).fit(x, y)
        losses = np.asarray(probe.loss_curve_, dtype=float)
        keep = np.unique(np.geomspace(1, len(losses), 200).astype(int)) - 1
        curves += [{"start": start, "epoch": int(e) + 1, "loss": float(losses[e])} for e in keep]
        directions.append(probe.direction_)
    cosines = (np.array(directions) @ np.array(directions).T)[np.triu_indices(p.seeds, 1)]

    rows: list[dict[str, Any]] = []
    scored: dict[str, Any] = {}
    for width in (w for w in p.widths if w in ("all", "4") or int(w) <= len(x)):  # as many components as rows, at the most
        scored[width] = DecodingProbe(width if width == "all" else int(width)).fit(x, y).decision_function(test)
        found = cluster_auroc(scored[width], truth, test_pairs, against=SEPARATED, seed=seed)
        rows.append({"quantity": "width", "at": width, "method": "probe"} | found.as_row())
    if {"4", "all"} <= set(scored):
        gap = cluster_auroc_difference(scored["all"], scored["4"], truth, test_pairs, against=(-LITTLE, LITTLE), seed=seed)
        rows.append({"quantity": "all minus 4", "at": "AUROC", "method": "probe"} | gap.as_row())
    rng = ctx.rng("subsets")
    for count in [c for c in p.counts if c < len(names)] + [len(names)]:
        values = []
        for _ in range(p.seeds if count < len(names) else 1):
            chosen = np.isin(pairs, _some_pairs(rng, names, pairs, y, count))
            scores = DecodingProbe(4).fit(x[chosen], y[chosen]).decision_function(test)
            values.append(cluster_auroc(scores, truth, test_pairs, against=SEPARATED, seed=seed))
        middle = sorted(values, key=lambda e: e.value)[len(values) // 2]
        rows.append({"quantity": "pairs", "at": str(count), "method": "probe"} | middle.as_row())
        subsets = Estimate.of_draws([v.value for v in values], level=1).as_row()
        rows.append({"quantity": "subsets", "at": str(count), "method": "probe"} | subsets)
    rows += [
        {"quantity": "control", "at": str(n), "method": "shuffled_labels"} | _chance(x, y, pairs, test, truth, n, p, seed)
        for n in sorted({min(FEW, len(names)), len(names)})
    ]
    plain = DecodingProbe(4).fit(x, y)
    agreement = float(np.dot(plain.direction_, np.mean(directions, axis=0)) / max(np.linalg.norm(np.mean(directions, axis=0)), 1e-12))
    starts = Estimate.of_draws(cosines, level=1).as_row() | {"clusters": p.seeds}
    rows.append({"quantity": "starts", "at": "cosine", "method": "probe"} | starts)
    same = Estimate.of_draws([agreement], level=1).as_row() | {"n": p.seeds, "clusters": p.seeds}
    rows.append({"quantity": "solvers", "at": "cosine", "method": "probe"} | same)
    return {"table": pd.DataFrame(rows), "loss": pd.DataFrame(curves)}


def _chance(x: Any, y: Any, pairs: Any, test: Any, truth: Any, count: int, p: Params, seed: int) -> dict[str, Any]:
    """|AUROC - 0.5| of probes fitted on shuffled labels of `count` pairs. By size: the strongest component decides the order of the test
    requests, and which way round a shuffled probe has it is a coin, so that AUROCs themselves fall into two heaps."""
    from safesteer_interp.probes.controls import shuffle_labels
    from safesteer_interp.probes.decoding_probe import DecodingProbe
    from safesteer_interp.statistics import Estimate, auroc

    names, found = np.unique(pairs), []
    for draw, shuffled in enumerate(shuffle_labels(y.astype(bool), pairs, p.draws, seed)):
        chosen = np.isin(pairs, _some_pairs(np.random.default_rng([seed, draw]), names, pairs, y, count))
        if len(np.unique(shuffled[chosen])) > 1:
            scores = DecodingProbe(4).fit(x[chosen], shuffled[chosen].astype(int)).decision_function(test)
            found.append(abs(auroc(scores, truth) - 0.5))
    return Estimate.of_draws(found).as_row() | {"n": len(test)}


def _some_pairs(rng: Any, names: Any, pairs: Any, y: Any, count: int) -> Any:
    """`count` pairs at random; where requests have no twins, half of them of either class (at least one), so that a probe can be fitted."""
    harmless, harmful = (np.unique(pairs[y == label]) for label in (0, 1))
    if len(np.intersect1d(harmless, harmful)) or count >= len(names):
        return rng.choice(names, count, replace=False)
    half = max(1, count // 2)
    return np.concatenate([rng.choice(each, min(half, len(each)), replace=False) for each in (harmless, harmful)])


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    table = t["table"]

    def chance(at: Any) -> Control:
        return Control("shuffled_labels", estimate_of(row(table, quantity="control", at=at)), absolute=True, center=0.5)

    everything = max(int(at) for at in table.loc[table["quantity"] == "control", "at"])
    few = table[(table["quantity"] == "pairs") & (table["at"].astype(str) == str(FEW))]
    found = [
        Claim(
            id="four_components_suffice",
            statement=f"Four principal components tell harmful from harmless requests (AUROC above {SEPARATED:g}).",
            estimate=estimate_of(row(table, quantity="width", at="4")),
            direction="above",
            threshold=SEPARATED,
            effect=0.9,
            unit="AUROC",
            controls=(chance(everything), Control('width "all"', estimate_of(row(table, quantity="width", at="all")), kind="context")),
        ),
        *(
            Claim(
                id="full_width_adds_little",
                statement=f"A probe of full width is neither {LITTLE:g} better nor worse in AUROC than one of four components.",
                estimate=estimate_of(r),
                direction="within",
                threshold=(-LITTLE, LITTLE),
                effect=0.0,
                unit="AUROC, paired difference",
                difference_to="four components",
            )
            for _, r in table[table["quantity"] == "all minus 4"].iterrows()
        ),
        Claim(
            id="starts_agree",
            kind="sanity",
            clusters="random starts",
            statement="The probe's direction does not depend on the random start of its optimiser.",
            estimate=estimate_of(row(table, quantity="starts")),
            direction="above",
            threshold=0.9,
            unit="cosine",
            controls=(Control("scikit-learn's solver", estimate_of(row(table, quantity="solvers")), kind="context"),),
            note="The bounds are the smallest and the largest cosine of two starts.",
        ),
    ]
    found += [
        Claim(
            id="sixteen_pairs_suffice",
            statement=f"Sixteen training pairs are enough for the probe (AUROC above {SEPARATED:g}).",
            estimate=estimate_of(r),
            direction="above",
            threshold=SEPARATED,
            effect=0.9,
            unit="AUROC",
            controls=(chance(FEW), Control("all subsets drawn", estimate_of(row(table, quantity="subsets", at=FEW)), kind="context")),
            note="Of the median subset; the interval is over test pairs.",
        )
        for _, r in few.iterrows()
        if len(table[(table["quantity"] == "control") & (table["at"].astype(str) == str(FEW))])
    ]
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, palette, panels

    fig, axes = new_figure(rows=1, cols=3, width="full", height=2.9)
    for start, curve in t["loss"].groupby("start"):
        axes[0].plot(
            curve["epoch"], curve["loss"], color=palette.BLUE, alpha=0.6, linewidth=1, label="one random start" if start == 0 else None
        )
    axes[0].set_xscale("log")
    axes[0].set(xlabel="epoch (full batch, AdamW)", ylabel="cross-entropy, nats", title="loss while fitting")
    table = t["table"]
    by: dict[str, Any] = {"by": "method", "kind": "series", "ylabel": "AUROC on test pairs", "reference": 0.5, "legend": False}
    counts = table[table["quantity"] == "pairs"].assign(at=lambda d: pd.to_numeric(d["at"]))
    panels.layer_curve(axes[1], counts, x="at", xlabel="training pairs", **by)
    axes[1].set_xscale("log", base=2)
    axes[1].set_xticks(sorted(counts["at"]), [f"{n:g}" for n in sorted(counts["at"])])
    axes[1].minorticks_off()
    axes[1].set_title("examples needed")
    panels.layer_curve(axes[2], table[table["quantity"] == "width"], x="at", xlabel="principal components", evenly=True, **by)
    axes[2].set_title("components needed")
    null = table[table["quantity"] == "control"].assign(at=lambda d: pd.to_numeric(d["at"])).sort_values("at").tail(1)
    if len(null):  # the table holds the distance from 0.5, either way round
        reach = float(null["high"].iloc[0])
        for ax in axes[1:]:
            panels.reference_band(ax, 0.5 - reach, 0.5 + reach, "control: shuffled labels, either way round")
    panels.legend_below(fig)
    return fig


ANALYSIS = Analysis(
    id="probe_training",
    title="What the probe needs",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Fig. 4",
    cites=("arXiv:2605.11716", "arXiv:2410.06809"),
    data=COMPARED,
    profiles={"full": {"pairs": None, "seeds": 20, "draws": 100}},
    order=8,
    captions={"figure": "Paper's probe on training pairs of all attacks. Middle: median subset with its 95 % interval over test pairs."},
)
