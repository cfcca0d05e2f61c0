"""From which layer on is harm linearly readable, is it later for images than for text, and what does the choice of layer change?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.statistics import COLUMNS
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import ATTACKS, attacks_in, fit_spec, report_spec, row, site_label

TEXT_READ, IMAGE_READ = "last_prompt", "image_mean"


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    layers: tuple[int, ...] = ()
    """Decoder layers to probe; empty: all of them (embed and final_norm are always there)."""
    widths: tuple[str, ...] = ("1", "2", "4", "8", "16", "all")
    """Principal components of the probe; "all" keeps the full width."""
    width: str = "4"
    """The width of the curves, the onset and the transfer; must be one of `widths`."""
    bar: float = 0.75
    """Onset: first layer to reach this AUROC, for every attack the same."""
    draws: int = 39
    """Shuffled labellings of the control."""
    seed: int = 0
    """Seed of the bootstrap, the folds and the controls."""


def needs(p: Params) -> list[TraceSpec]:
    # Named one by one, so that a layer the model has not got is refused before anything is traced.
    sites = ("embed", *(f"resid_post.{layer}" for layer in p.layers), "final_norm") if p.layers else ("all",)
    asked: dict[str, Any] = {"reads": (TEXT_READ, IMAGE_READ), "sites": sites}
    return [fit_spec(p, **asked), report_spec(p, **asked)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """AUROC on test pairs by layer, attack, read and width; the onset layer; attacks compared at one layer; what the layer changes
    downstream. Layers are chosen on training pairs by cross-validation (`chosen`), and reported on test pairs."""
    from safesteer_interp.errors import UsageError
    from safesteer_interp.probes import controls
    from safesteer_interp.probes.onsets import onset
    from safesteer_interp.probes.rows import Resampling, Rows
    from safesteer_interp.probes.separation import fold_stability, out_of_fold, separability
    from safesteer_interp.tracing.trace import labels_of

    if p.width not in p.widths:
        raise UsageError(f'`width` is "{p.width}" but `widths` holds {", ".join(p.widths)}; the curves need it among them.')
    widths = [w if w == "all" else int(w) for w in p.widths]
    fit, report = (ctx.trace(spec) for spec in needs(p))
    sites = list(fit.sites_in_order)
    names = [site_label(s) for s in sites]
    index = pd.concat([fit.index, report.index], ignore_index=True)
    given = labels_of(index)
    labels, pairs, attack, train = given.harmful, given.pairs, given.attacks, given.train
    seed = ctx.seed("bootstrap")
    resampling = Resampling(seed=seed)

    curves: list[pd.DataFrame] = []
    onsets: list[dict[str, Any]] = []
    scored: dict[str, Any] = {}
    chosen, best_null = [], []
    main = widths[list(p.widths).index(p.width)]
    both = {read: np.concatenate([v.stack(read, sites) for v in (fit, report)], axis=1) for read in (TEXT_READ, IMAGE_READ)}
    for name in ctx.track(attacks_in(index), "attacks"):
        mask = attack == name
        for read, stack in ((read, stack[:, mask]) for read, stack in both.items()):
            if not np.isfinite(stack).all():
                continue  # no image, so no image tokens to average over
            sample = Rows(stack, labels[mask], pairs[mask], train=train[mask], sites=names)
            possible = [w for w in widths if w in ("all", main) or int(w) <= train[mask].sum()]  # as many components as rows, at the most
            found = separability(sample, widths=possible, resampling=resampling, against=p.bar)
            curves.append(found.assign(attack=name, read=read, method="probe"))
            null = controls.shuffled_labels(sample, width=main, draws=p.draws, resampling=resampling)
            curves.append(null.assign(attack=name, read=read, method="shuffled_labels"))
            scores = out_of_fold(stack, sample.labels, sample.fold_array(), widths=[main])[:, 0]
            test = ~train[mask]
            first = onset(scores[:, test], labels[mask][test], pairs[mask][test], threshold=p.bar, resampling=resampling)
            onsets.append({"attack": name, "read": read, "bar": first.bar, "deepest": len(sites) - 1} | first.estimate.as_row())
            if read == TEXT_READ:
                scored[name] = (scores[:, test], labels[mask][test], pairs[mask][test])
                chosen.append({"attack": name} | _chosen(stack[:, train[mask]], names, sample, main, p, seed))
                best_null.append(controls.shuffled_maximum(sample, width=main, draws=p.draws, resampling=resampling).assign(attack=name))
    folds = min(5, *(len(set(pairs[attack == name])) for name in attacks_in(index)))
    stability = fold_stability(Rows(both[TEXT_READ], labels, pairs, attack, names), widths=[main], folds=folds, seed=seed)
    keep = ["layer", "depth", "attack", "read", "method", "width", *(c for c in COLUMNS if any(c in t for t in curves))]
    return {
        "table": pd.concat(curves, ignore_index=True).rename(columns={"site": "layer"})[keep],
        "onset": pd.DataFrame(onsets),
        "chosen": pd.DataFrame(chosen),
        "best_of_shuffled": pd.concat(best_null, ignore_index=True).drop(columns=["control", "group"]),
        "contrast": _contrast(scored, {c["attack"]: c for c in chosen}, names, seed),
        "transfer": _transfer(both[TEXT_READ], names, index, main, seed),
        "stability": stability.rename(columns={"site": "layer", "group": "attack"}).drop(columns="width"),
    }


def _chosen(stack: Any, names: list[str], sample: Any, width: Any, p: Params, seed: int) -> dict[str, Any]:
    """Choices on training pairs, by cross-validation: the best layer, and the first to reach the bar (the best where none does)."""
    from safesteer_interp.probes.folds import pair_folds
    from safesteer_interp.probes.separation import out_of_fold
    from safesteer_interp.statistics import auroc

    labels, pairs = sample.labels[sample.train], sample.pairs[sample.train]
    scores = out_of_fold(stack, labels, pair_folds(pairs, min(5, len(set(pairs))), seed), widths=[width])[:, 0]
    found = np.array([auroc(s[np.isfinite(s)], labels[np.isfinite(s)]) for s in scores])
    best = int(np.nanargmax(found))
    reaching = np.flatnonzero(found >= p.bar)
    first = int(reaching[0]) if len(reaching) else best
    return {"best": names[best], "onset": names[first], "reached": bool(len(reaching)), "auroc": float(found[best])}


def _contrast(scored: dict[str, Any], chosen: dict[str, Any], names: list[str], seed: int) -> pd.DataFrame:
    """At the layer where TEXT becomes readable: AUROC of TEXT, and of CB, minus that of every other attack, over the pairs both have."""
    from safesteer_interp.statistics import cluster_auroc_gap

    rows = []
    for base in ("TEXT", "CB"):
        for name in (a for a in scored if a != base and base in scored and "TEXT" in scored):
            depth = names.index(chosen["TEXT"]["onset"])
            both = np.intersect1d(scored[base][2], scored[name][2])
            first, second = ((s[depth][k], y[k], g[k]) for s, y, g in (scored[base], scored[name]) for k in (np.isin(g, both),))
            if len(both) and all(len(set(y)) == 2 for _, y, _ in (first, second)):
                found = cluster_auroc_gap(first, second, seed=seed)
                rows.append({"attack": name, "minus": base, "layer": names[depth]} | found.as_row())
    return pd.DataFrame(rows, columns=None if rows else ["attack", "minus", "layer", *COLUMNS])


def _transfer(stack: Any, names: list[str], index: pd.DataFrame, width: Any, seed: int) -> pd.DataFrame:
    """A probe fitted on TEXT alone, tested on every attack, per layer: what a text-trained guard would see of images."""
    from safesteer_interp.probes.folds import split_folds
    from safesteer_interp.probes.separation import out_of_fold
    from safesteer_interp.statistics import cluster_aurocs
    from safesteer_interp.tracing.trace import labels_of

    given = labels_of(index)
    labels, pairs, attack, train = given.harmful, given.pairs, given.attacks, given.train
    if "TEXT" not in attack:
        return pd.DataFrame(columns=["layer", "attack", "value", "low", "high", "n", "clusters"])
    scores = out_of_fold(stack, labels, split_folds(train, pairs), widths=[width], fit_on=attack == "TEXT")[:, 0]
    rows = []
    for name in attacks_in(index):
        mask = (attack == name) & ~train
        for label, found in zip(names, cluster_aurocs(scores[:, mask].T, labels[mask], pairs[mask], seed=seed), strict=True):
            rows.append({"layer": label, "attack": name} | found.as_row())
    return pd.DataFrame(rows)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    found = []
    contrast, table, chosen = t["contrast"], t["table"], t["chosen"]
    reached = {str(r["attack"]): bool(r["reached"]) for _, r in chosen.iterrows()}
    images = {str(x) for x in ATTACKS if x.in_image}
    for name in [a for a in attacks_in(contrast) if a in images and reached["TEXT"]]:
        blank = contrast[(contrast["attack"] == name) & (contrast["minus"] == "CB")]
        found.append(
            Claim(
                id=f"onset_later_{name.lower()}",
                statement=f"At the layer where harm in plain text becomes readable (AUROC {p.bar:g}), harm as {name} is less readable.",
                estimate=estimate_of(row(contrast, attack=name, minus="TEXT")),
                direction="above",
                threshold=0.0,
                effect=0.15,
                unit="AUROC, paired difference",
                difference_to="the same requests as plain text",
                controls=tuple(Control("CB (blank image)", estimate_of(b), kind="paired") for _, b in blank.iterrows()),
                note="The layer is the first to reach the bar in cross-validation on training pairs.",
            )
        )
    curves = table[(table["read"] == TEXT_READ) & (table["width"].astype(str) == p.width) & (table["method"] == "probe")]
    for name in attacks_in(curves):
        best = str(row(chosen, attack=name)["best"])
        found.append(
            Claim(
                id=f"readable_somewhere_{name.lower()}",
                statement=f"At the layer chosen for it on training pairs, harm carried as {name} is linearly readable "
                f"(AUROC above {p.bar:g}).",
                estimate=estimate_of(row(curves, attack=name, layer=best)),
                direction="above",
                threshold=p.bar,
                effect=0.9,
                unit="AUROC",
                controls=(Control("best layer of shuffled labels", estimate_of(row(t["best_of_shuffled"], attack=name))),),
                note=f"The best of {len(set(curves['layer']))} sites in cross-validation on training pairs: {best}. "
                "Shuffled labels take their best site on test pairs.",
            )
        )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    table = t["table"]
    text_read = table[table["read"] == TEXT_READ]
    at_width = text_read[text_read["width"].astype(str) == p.width]
    fig, axes = new_figure(rows=2, cols=2, width="full", height=5.6)
    panels.layer_curve(axes[0, 0], at_width[at_width["method"] == "probe"], by="attack", ylabel="AUROC", reference=0.5)
    axes[0, 0].set_title(f"last prompt token, {p.width} components")
    if len(t["transfer"]):
        panels.layer_curve(axes[0, 1], t["transfer"], by="attack", ylabel="AUROC", reference=0.5, legend=False)
        axes[0, 1].set_title("the probe of TEXT on other attacks")
    else:  # data without plain text requests have no such probe
        axes[0, 1].set_visible(False)
    probe = text_read[text_read["method"] == "probe"]
    best = probe.loc[probe.groupby(["attack", "width"])["value"].idxmax()]
    panels.layer_curve(
        axes[1, 0],
        best,
        x="width",
        by="attack",
        xlabel="probe width (principal components)",
        ylabel="AUROC, best layer",
        reference=0.5,
        legend=False,
        evenly=True,
    )
    axes[1, 0].set_title("how many components it takes")
    # Sites count from the embedding; what is drawn counts decoder layers, the final norm being the one after the last.
    onset = t["onset"][t["onset"]["read"] == TEXT_READ]
    onset = onset.assign(label=onset["attack"], **{c: onset[c] - 1 for c in ("value", "low", "high")})
    panels.forest(axes[1, 1], onset, by="attack", xlabel="decoder layer", legend=False)
    axes[1, 1].set_title("onset: where harm becomes readable")
    image = table[(table["read"] == IMAGE_READ) & (table["width"].astype(str) == p.width) & (table["method"] == "probe")]
    figures = {"figure": fig}
    if (image["attack"] != "CB").any():
        other, ax = new_figure(width="column", height=2.8)
        # A blank image is the same in every request: there is nothing to read from it, and its 0.5 says nothing.
        panels.layer_curve(ax, image[image["attack"] != "CB"], by="attack", ylabel="AUROC", reference=0.5)
        ax.set_title(f"mean over the image tokens, {p.width} components")
        figures["image_tokens"] = other
    return figures


ANALYSIS = Analysis(
    id="layer_choice",
    title="Where harm becomes readable",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Fig. 7",
    cites=("arXiv:2605.11716", "arXiv:2502.13095", "arXiv:2603.17372"),
    data=COMPARED,
    profiles={"full": {"pairs": None, "draws": 100}},
    order=4,
    captions={
        "figure": "Probes fitted on training pairs, AUROC on test pairs; bands: 95 % over pairs. Onset: first layer at its bar.",
        "image_tokens": "The same probes, of the width that the title names alone, on the mean over image tokens: is the harm in the "
        "image's own states before the text reads them?",
    },
)
