"""What does an image do to the state of the same text: how far does it push, and does it push towards "harmless"?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import DataNeeds
from safesteer_interp.statistics import Estimate, cluster_mean
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import fit_spec, report_spec, row, site_label, unit

IMAGES = ("blank_image", "harmless_image", "harmful_image")


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    random_directions: int = 200
    """Random directions that the refusal direction is held against."""
    seed: int = 0
    """Seed of the bootstrap and of the random directions."""


def needs(p: Params) -> list[TraceSpec]:
    return [fit_spec(p, attacks=(Attack.TEXT,)), report_spec(p)]


def table(ctx: Context, p: Params) -> pd.DataFrame:
    """Shift of the last prompt token's state when the same question is shown with an image, by layer, class of question and image.

    `size`: length of the shift over the median norm of the text states. `cosine`: with the refusal direction (mean harmful minus mean
    harmless TEXT state of the training pairs). `toward_harmful`: projection on it, in units of the distance between the two means (of
    training pairs: a fixed unit). Class "harmful minus harmless": paired difference of the two questions of a pair.
    """
    fit, report = (ctx.trace(spec) for spec in needs(p))
    position = {(r.pair, r.attack, r.harmful): i for i, r in enumerate(report.requests)}
    complete = {r.pair for r in report.requests if all((r.pair, a, h) in position for a in (Attack.CB, Attack.SD) for h in (True, False))}
    text_rows = [r for r in report.requests if r.attack is Attack.TEXT and r.pair in complete]
    shown, keys = _shown_with_pictures(text_rows, {k: report.requests[i] for k, i in position.items()})
    extra = ctx.collect(shown, sites="all", reads="last_prompt")
    where = {name: i for i, name in enumerate(extra.index["request"])}

    seed, rng = ctx.seed("bootstrap"), ctx.rng("directions")
    harmful_fit = fit.labels.harmful
    rows: list[dict[str, Any]] = []
    shifts: dict[tuple[str, str], dict[str, Any]] = {}
    for site in ctx.track(report.sites_in_order, "layers"):
        states, pictures, train = report.rows(site, "last_prompt"), extra.rows(site, "last_prompt"), fit.rows(site, "last_prompt")
        gap = train[harmful_fit].mean(axis=0, dtype=np.float64) - train[~harmful_fit].mean(axis=0, dtype=np.float64)
        randoms = unit(rng.standard_normal((p.random_directions, len(gap))))
        scale = float(np.median(np.linalg.norm(states[[position[r.pair, r.attack, r.harmful] for r in text_rows]], axis=1)))
        for kind, side in (("harmful", True), ("harmless", False)):
            questions = [r for r in text_rows if r.harmful is side]
            pairs = np.array([r.pair for r in questions])
            base = states[[position[r.pair, r.attack, r.harmful] for r in questions]].astype(np.float64)
            for image in IMAGES:
                if image == "blank_image":
                    after = states[[position[r.pair, Attack.CB, r.harmful] for r in questions]]
                else:
                    after = pictures[[where[keys[r.id, image]] for r in questions]]
                head = {"layer": site_label(site), "class": kind, "image": image}
                shift = after.astype(np.float64) - base
                rows += [head | found for found in _measured(shift, gap, scale, randoms, pairs, seed)]
                shifts[kind, image] = dict(zip(pairs, shift, strict=True))
        rows += [{"layer": site_label(site)} | found for found in _beyond_twins(shifts, gap, seed)]
    return pd.DataFrame(rows)


def _beyond_twins(shifts: dict[tuple[str, str], dict[str, Any]], gap: Any, seed: int) -> list[dict[str, Any]]:
    """By image: projection of a harmful question's shift on the refusal direction minus that of its harmless twin's, in the same unit."""
    distance, rows = float(np.linalg.norm(gap)), []
    for image in IMAGES if distance > 1e-12 else ():
        harmful, harmless = shifts["harmful", image], shifts["harmless", image]
        both = [pair for pair in harmful if pair in harmless]
        beyond = np.array([harmful[pair] - harmless[pair] for pair in both]) @ gap / distance**2
        head = {"class": "harmful minus harmless", "image": image, "quantity": "toward_harmful"}
        rows.append(head | cluster_mean(beyond, np.array(both), seed=seed).as_row())
    return rows


def _measured(shift: Any, gap: Any, scale: float, randoms: Any, pairs: Any, seed: int) -> list[dict[str, Any]]:
    """One row per quantity of shifts [n, d] of the same questions by one kind of image, and the projection of their mean on random
    directions [k, d]; where the class means coincide (`gap` is zero) there is nothing to project on."""
    distance, direction = float(np.linalg.norm(gap)), unit(gap)
    along, length = shift @ direction, np.linalg.norm(shift, axis=1)
    apart = distance > 1e-12
    values = {
        "size": length / scale,
        "cosine": along / np.maximum(length, 1e-12),
        "toward_harmful": along / distance if apart else np.full(len(along), np.nan),
    }
    rows: list[dict[str, Any]] = [
        {"quantity": q} | cluster_mean(x, pairs, seed=seed).as_row() for q, x in values.items() if np.isfinite(x).all()
    ]
    if apart:
        rows.append({"quantity": "random_direction"} | Estimate.of_draws((shift.mean(axis=0) @ randoms.T) / distance).as_row())
    return rows


def _shown_with_pictures(questions: list[Any], requests: dict[Any, Any]) -> tuple[list[Any], dict[tuple[str, str], str]]:
    """Each question beside the picture of its pair's harmless and harmful side: new requests, and their ids by (question, image)."""
    from dataclasses import replace

    shown, keys = [], {}
    for question in questions:
        for image, side in (("harmless_image", False), ("harmful_image", True)):
            picture = requests[question.pair, Attack.SD, side].image
            name = f"{question.id}+{image}"
            shown.append(replace(question, id=name, image=picture, attack=Attack.SD))
            keys[question.id, image] = name
    return shown, keys


def claims(t: pd.DataFrame, p: Params) -> list[Claim]:
    found = []
    final = t[t["layer"] == "final_norm"]
    for image, words in (
        ("blank_image", "A blank image"),
        ("harmless_image", "A harmless picture"),
        ("harmful_image", "A harmful picture"),
    ):
        here = {"class": "harmful", "image": image}
        found.append(
            Claim(
                id=f"{image}_moves_harmful_text_to_harmless",
                statement=f"{words} beside a harmful question moves its final state towards the harmless questions, and farther than it "
                "moves a harmless one.",
                estimate=estimate_of(row(final, quantity="toward_harmful", **here)),
                direction="below",
                threshold=0.0,
                unit="distances between the class means",
                controls=(
                    Control("random_direction", estimate_of(row(final, quantity="random_direction", **here))),
                    Control(
                        "harmless questions",
                        estimate_of(row(final, quantity="toward_harmful", **{**here, "class": "harmful minus harmless"})),
                        kind="paired",
                    ),
                ),
            )
        )
    return found


def draw(t: pd.DataFrame, p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    fig, axes = new_figure(rows=1, cols=3, width="full", height=3.0)
    harmful = t[t["class"] == "harmful"]
    # In early layers the class means nearly coincide and the unit of the third panel is tiny: what the data cannot place is left out.
    placed = _placed(harmful[harmful["quantity"] == "toward_harmful"])
    shown = (
        (harmful[harmful["quantity"] == "size"], "size of the shift (median state norms)", "how far", None),
        (harmful[harmful["quantity"] == "cosine"], "cosine with the refusal direction", "which way (< 0: away from refusal)", 0.0),
        (placed, "shift towards harmful (class distances)", "along it (< 0: looks harmless)", 0.0),
    )
    for ax, (part, label, title, reference) in zip(axes, shown, strict=True):
        if len(part):
            panels.layer_curve(ax, part, by="image", kind="modality", ylabel=label, reference=reference, reference_label="", legend=False)
        ax.set_title(title)
    random = harmful[(harmful["quantity"] == "random_direction") & harmful["layer"].isin(placed["layer"])]
    if len(random):
        null = random.groupby("layer", sort=False, as_index=False)[["value", "low", "high"]].mean().assign(of="random_direction")
        panels.layer_curve(axes[2], null, by="of", kind="control", ylabel=shown[2][1], legend=False, markers=False)
    panels.legend_below(fig)
    return fig


def _placed(shifts: pd.DataFrame) -> pd.DataFrame:
    """From the first layer on from which every interval, of every image, is narrower than half the distance of the classes."""
    wide = shifts[~(shifts["high"] - shifts["low"] < 0.5)]
    order = list(dict.fromkeys(shifts["layer"]))
    first = max((order.index(layer) for layer in wide["layer"]), default=-1) + 1
    return shifts[shifts["layer"].isin(order[first:])]


ANALYSIS = Analysis(
    id="modality_gap",
    title="What an image does to the same text",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2502.13095", "arXiv:2410.09047"),
    requires_images=True,
    attacks=(Attack.TEXT, Attack.CB, Attack.SD),
    data=DataNeeds(both_classes=True, pairs=2, together=(Attack.TEXT, Attack.CB, Attack.SD), twins=True),
    profiles={"full": {"pairs": None}},
    order=7,
    captions={
        "figure": "Harmful questions: the same text alone against beside a blank, a harmless and a harmful image. Bands: 95 % over pairs."
    },
)
