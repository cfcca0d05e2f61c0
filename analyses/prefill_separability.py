"""Are harmful and harmless requests separated before the first answer token, and does it matter whether the harm sits in the image?"""

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

from ._shared import attacks_in, fit_spec, report_spec, row, unit

SITE = "final_norm"
SEPARATED = 0.75
"""AUROC from which harmful and harmless requests count as separated, in every analysis of probes."""
METHODS = ("probe", "probe_of_its_own", "shuffled_labels", "bag_of_words", "words_behind", "prompt_length", "random_direction")
LABELS = {
    "probe": "one probe for all attacks",
    "probe_of_its_own": "a probe for each attack",
    "shuffled_labels": "shuffled labels",
    "bag_of_words": "bag of words of the text",
    "words_behind": "bag of all words, image included",
    "prompt_length": "prompt length",
    "random_direction": "random direction",
}


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    width: int = 4
    """Principal components of the probe (4 in the paper)."""
    draws: int = 50
    """Shuffled labellings of the control."""
    seed: int = 0
    """Seed of the bootstrap and the controls."""


def needs(p: Params) -> list[TraceSpec]:
    return [fit_spec(p), report_spec(p)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """AUROC on test pairs by attack and method, probes fitted on training pairs; its paired difference to what needs no states; and every
    request's place on the probe's axis. `words_behind`: words of the text and of what the image shows or spells out (the intent)."""
    from safesteer_interp.probes import controls
    from safesteer_interp.probes.decoding_probe import DecodingProbe
    from safesteer_interp.probes.rows import Resampling, Rows
    from safesteer_interp.probes.separation import out_of_fold, separability
    from safesteer_interp.statistics import cluster_auroc, cluster_auroc_difference
    from safesteer_interp.tracing.trace import labels_of

    fit, report = (ctx.trace(spec) for spec in needs(p))
    index = pd.concat([fit.index, report.index], ignore_index=True)
    states = np.concatenate([v.rows(SITE, "last_prompt") for v in (fit, report)])
    texts = [r.text for v in (fit, report) for r in v.requests]
    behind = [f"{r.text} {r.intent}" for v in (fit, report) for r in v.requests]
    given = labels_of(index)
    labels, pairs, attack, train = given.harmful, given.pairs, given.attacks, given.train
    seed = ctx.seed("bootstrap")

    probe = DecodingProbe(p.width).fit(states[train], labels[train].astype(int))
    scores = probe.decision_function(states)
    rows = []
    for name in attacks_in(index):
        mask = (attack == name) & ~train
        rows.append({"attack": name, "method": "probe"} | cluster_auroc(scores[mask], labels[mask], pairs[mask], seed=seed).as_row())
    sample, resampling = Rows(states, labels, pairs, attack, train=train), Resampling(seed=seed)
    own = separability(sample, widths=(p.width,), resampling=resampling, against=SEPARATED)
    rows += [{"attack": r["group"], "method": "probe_of_its_own"} | _numbers(r) for _, r in own.iterrows()]
    for method, found in (
        ("shuffled_labels", controls.shuffled_labels(sample, width=p.width, draws=p.draws, resampling=resampling)),
        ("random_direction", controls.random_direction(sample, resampling=resampling)),
        ("bag_of_words", controls.bag_of_words(texts, sample, resampling=resampling)),
        ("words_behind", controls.bag_of_words(behind, sample, resampling=resampling)),
        ("prompt_length", controls.prompt_length(index["prompt_length"].to_numpy(), sample, resampling=resampling)),
    ):
        rows += [{"attack": r["group"], "method": method} | _numbers(r) for _, r in found.iterrows()]
    without_states = {
        "prompt_length": controls.length_scores(index["prompt_length"].to_numpy(), sample),
        "words_behind": controls.word_scores(behind, sample),
    }
    beyond = []
    for name in attacks_in(index):
        mask, here = (attack == name) & ~train, attack == name
        held_out = out_of_fold(states[None, here], labels[here], sample.take(here).fold_array(), widths=(p.width,))[0, 0][~train[here]]
        for method, others in without_states.items():
            gap = cluster_auroc_difference(held_out, others[mask], labels[mask], pairs[mask], seed=seed)
            beyond.append({"attack": name, "beyond": method} | gap.as_row())

    # `rest`: the largest variation that the probe does not use, for readers of the table.
    centred = states.astype(np.float64) - probe.mean_
    direction = unit(probe.weight_)
    rest = centred - np.outer(centred @ direction, direction)
    second = np.linalg.svd(rest[train], full_matrices=False)[2][0]
    second *= np.sign(second[np.abs(second).argmax()])
    points = pd.DataFrame(
        {
            "attack": attack,
            "class": np.where(labels, "harmful", "harmless"),
            "split": given.splits,
            "score": scores,
            "rest": rest @ second,
            **{f"pc_{i + 1}": column for i, column in enumerate(_components(probe, centred).T)},
        }
    )
    return {"table": pd.DataFrame(rows), "beyond": pd.DataFrame(beyond), "points": points[points["split"] == "test"].reset_index(drop=True)}


def _components(probe: Any, centred: np.ndarray) -> np.ndarray:
    """[n, width] what the probe reads: coordinates along the principal components of the training states."""
    return np.asarray(centred @ probe.components_.T)


def _projected(points: pd.DataFrame) -> pd.DataFrame:
    """The paper's own map of Fig. 2(a): t-SNE of the components. Distances in it mean nothing; it is there to be compared with."""
    from sklearn.manifold import TSNE

    components = points[[c for c in points if str(c).startswith("pc_")]].to_numpy()
    few = min(30.0, (len(points) - 1) / 3)
    x, y = TSNE(2, perplexity=few, init="pca", random_state=0).fit_transform(components).T
    return points.assign(x=x, y=y)


def _numbers(r: Any) -> dict[str, Any]:
    return {name: r[name] for name in COLUMNS if name in r}


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    table, beyond, found = t["table"], t["beyond"], []
    for name in attacks_in(table):
        by = {m: estimate_of(row(table, attack=name, method=m)) for m in METHODS}
        past = {m: estimate_of(row(beyond, attack=name, beyond=m)) for m in ("prompt_length", "words_behind")}
        found += [
            Claim(
                id=f"separable_{name.lower()}",
                kind="replication",
                source="arXiv:2605.11716 section 3, Fig. 2a",
                printed="harmful and benign queries are separated by a clear margin before the first token",
                statement=f"Harmful and harmless {name} requests are linearly separable at the final state of the prompt "
                f"(AUROC above {SEPARATED:g}).",
                estimate=by["probe_of_its_own"],
                direction="above",
                threshold=SEPARATED,
                effect=0.9,
                unit="AUROC",
                controls=(
                    Control("shuffled_labels", by["shuffled_labels"]),
                    Control("random_direction", by["random_direction"]),
                    Control("prompt_length", past["prompt_length"], kind="paired"),
                    Control("bag of words of the text", by["bag_of_words"], kind="context"),
                ),
            ),
            Claim(
                id=f"beyond_words_{name.lower()}",
                statement=f"The final state of {name} requests tells harmful from harmless better than a bag of words that reads "
                "everything, also what the image shows.",
                estimate=past["words_behind"],
                direction="above",
                threshold=0.0,
                effect=0.15,
                unit="AUROC, paired difference",
                difference_to="a bag of all words",
                controls=(Control("bag of all words", by["words_behind"], kind="context"),),
                note="What a representation of harm should clear: both classes are told apart by a list of words that needs no model.",
            ),
        ]
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    fig, axes = new_figure(rows=1, cols=2, width="full", height=3.6, width_ratios=(1.15, 1.0))
    panels.score_rows(axes[0], t["points"], reference=0.0, reference_label="boundary", xlabel="probe score (log-odds of harmful)")
    axes[0].set_title("test requests, final norm; bars: means")
    table = t["table"].assign(label=lambda d: d["method"].map(LABELS))
    panels.forest(axes[1], table, label="label", by="attack", reference=0.5, xlabel="AUROC, harmful vs harmless twin")
    axes[1].set_title("how well they are told apart")
    return {"figure": fig, "projection": _projection_figure(t["points"])}


def _projection_figure(points: pd.DataFrame) -> Any:
    from safesteer_interp.plotting import new_figure, panels
    from safesteer_interp.plotting.palette import style_of

    fig, axes = new_figure(rows=1, cols=2, width="full", height=3.4)
    placed, maps = _projected(points), {"components of the probe": ("pc_1", "pc_2"), "t-SNE of them": ("x", "y")}
    for ax, (title, (x, y)) in zip(axes, maps.items(), strict=True):
        for (name, attack), part in placed.groupby(["class", "attack"], sort=False):
            look, shape = style_of("class", str(name)), style_of("attack", str(attack))
            ax.scatter(part[x], part[y], s=11, alpha=0.6, linewidths=0, color=look.color, marker=shape.marker)
        for name in dict.fromkeys(placed["class"]):
            ax.scatter([], [], s=18, color=style_of("class", name).color, label=style_of("class", name).label)
        for name in dict.fromkeys(placed["attack"]):
            ax.scatter([], [], s=18, color="#777777", marker=style_of("attack", name).marker, label=style_of("attack", name).label)
        ax.set_xlabel("component 1" if x == "pc_1" else "t-SNE 1")
        ax.set_ylabel("component 2" if x == "pc_1" else "t-SNE 2")
        ax.set_title(title)
    panels.legend_below(fig)
    return fig


ANALYSIS = Analysis(
    id="prefill_separability",
    title="Harm before the first token",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Fig. 2(a)",
    cites=("arXiv:2605.11716", "arXiv:2410.06809"),
    data=COMPARED,
    profiles={"full": {"pairs": None, "draws": 200}},
    order=1,
    captions={
        "figure": "Left: test requests on the axis of the fitted probe (boundary dashed), a row for each form; height within a row means "
        "nothing; bars: class means. Right: AUROC on test pairs, probes above their controls; 95 % over pairs, of shuffled labels and "
        "random directions the central 95 % of the draws.",
        "projection": "The paper's own map (Fig. 2a): test requests on the components that the probe reads, as they are and by t-SNE, "
        "whose distances mean nothing. Shapes: attacks.",
    },
)
