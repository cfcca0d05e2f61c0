"""From which stage on can a picture's harm be told, eyes included, and between which two is it lost or made: tower, projector, decoder?"""

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
from safesteer_interp.tracing.spec import TraceSpec

from ._causes import layer_grid
from ._shared import attacks_in, fit_spec, report_spec, row

PIXELS, EYES, PROJECTOR, IMAGE, LAST = "pixels", "eyes", "projector", "image tokens", "last token"
"""Where a probe reads, in the order of the pass."""
TOLD, LOST, GAINED = 0.75, -0.1, 0.1
"""AUROC from which harm can be told; changes of AUROC from one stage to a later one that count as a loss, and as a gain."""
SIDE = 16
"""Side length of the pictures that the probe of pixels sees."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs of the test split."""
    fit_pairs: int | None = 48
    """Pairs of the fitting split that probes are fitted on."""
    attacks: tuple[str, ...] = ("SD", "TYPO")
    """Forms whose harm lies in the image."""
    layers: int | None = 8
    """Decoder layers, evenly spaced; None: all."""
    width: int = 16
    """Principal components of every probe, at every stage."""
    draws: int = 39
    """Shuffled labellings of the control."""
    seed: int = 0
    """Seed of the intervals and of the shuffled labels."""


def needs(p: Params) -> list[TraceSpec]:
    attacks = tuple(Attack(attack) for attack in p.attacks)
    asked: dict[str, Any] = {
        "attacks": attacks,
        "sites": ("vision", "projector", "resid_post"),
        "reads": ("image_mean", "last_prompt"),
    }
    return [fit_spec(p, **asked, pairs=p.fit_pairs), report_spec(p, **asked)]


def cost(p: Params, pairs: int, n_layers: int) -> str:
    """Probes; the passes are those of the traces."""
    stages = 2 * len(layer_grid(n_layers, p.layers)) + 2
    return f"{len(p.attacks)} x {stages} probes and one a layer of the eyes, each fitted {1 + p.draws} times; no passes beyond the traces"


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: by form and stage (part, layer), AUROC on test pairs of a probe fitted at that stage on fitting pairs, and of probes fitted
    and tested on labels exchanged within pairs (`shuffled`). `contrasts`: the numbers claimed, with paired differences between stages.

    In the eyes and at image tokens a probe reads the mean over the picture; of the pixels a small copy. All have the same components.
    """
    from safesteer_interp.models.eyes import last_layer_used
    from safesteer_interp.statistics import Estimate, auroc, cluster_auroc, cluster_auroc_difference

    fit, report = (ctx.trace(spec) for spec in needs(p))
    last_eye, seed = last_layer_used(ctx.model), ctx.seed("intervals")
    stages = [(PIXELS, 0, "", ""), *((EYES, n, f"vision.{n}", "image_mean") for n in range(last_eye + 1))]
    stages.append((PROJECTOR, 0, "projector", "image_mean"))
    grid = layer_grid(ctx.n_layers, p.layers)
    stages += [(part, n, f"resid_post.{n}", read) for part, read in ((IMAGE, "image_mean"), (LAST, "last_prompt")) for n in grid]
    thumbnails = [np.stack([_thumbnail(request) for request in view.requests]) for view in (fit, report)]
    rows, found = [], []
    for attack in p.attacks:
        here, there = fit.labels.attacks == attack, report.labels.attacks == attack
        labels, harmful, pairs = fit.labels.harmful[here], report.labels.harmful[there], report.labels.pairs[there]
        rng = ctx.rng(f"shuffled labels {attack}")
        shuffled = list(
            zip(*(_exchanged(y, of, p.draws, rng) for y, of in ((labels, fit.labels.pairs[here]), (harmful, pairs))), strict=True)
        )
        scores: dict[tuple[str, int], np.ndarray] = {}
        for part, layer, site, read in stages:
            one, two = (view.rows(site, read) if site else small for view, small in zip((fit, report), thumbnails, strict=True))
            states, tested = one[here], two[there]
            scores[part, layer] = _scores(states, labels, tested, p.width)
            base = {"attack": attack, "part": part, "layer": layer}
            rows.append(base | {"method": "probe"} | cluster_auroc(scores[part, layer], harmful, pairs, seed=seed).as_row())
            null = [auroc(_scores(states, some, tested, p.width), others) for some, others in shuffled]
            rows.append(base | {"method": "shuffled"} | Estimate.of_draws(null).as_row())
        ends = {PIXELS: (PIXELS, 0), EYES: (EYES, last_eye), PROJECTOR: (PROJECTOR, 0), IMAGE: (IMAGE, grid[-1]), LAST: (LAST, grid[-1])}
        for part, key in ends.items():
            told = cluster_auroc(scores[key], harmful, pairs, against=TOLD, seed=seed)
            found.append({"attack": attack, "part": part, "minus": "", "edge": "told", "layer": key[1]} | told.as_row())
        steps = ((EYES, PIXELS, LOST), (PROJECTOR, EYES, LOST), (LAST, PROJECTOR, LOST), (LAST, PROJECTOR, GAINED))
        for part, before, against in steps:
            edge = "lost" if against == LOST else "gained"
            change = cluster_auroc_difference(scores[ends[part]], scores[ends[before]], harmful, pairs, against=against, seed=seed)
            found.append({"attack": attack, "part": part, "minus": before, "edge": edge, "layer": ends[part][1]} | change.as_row())
    return {"table": pd.DataFrame(rows), "contrasts": pd.DataFrame(found)}


def _thumbnail(request: Any) -> np.ndarray:
    """A request's picture as a vector of a few colours [SIDE * SIDE * 3] in 0 to 1."""
    small = request.image.load().convert("RGB").resize((SIDE, SIDE))
    return np.asarray(small, dtype=np.float32).ravel() / 255


def _scores(states: np.ndarray, labels: np.ndarray, tested: np.ndarray, width: int) -> np.ndarray:
    """Log-odds of harm of the tested states by a probe fitted on others, which all stages give the same scale."""
    from safesteer_interp.probes.decoding_probe import DecodingProbe

    scale = float(np.asarray(states - states.mean(0)).std()) or 1.0
    probe = DecodingProbe(width).fit(np.asarray(states / scale, dtype=np.float32), labels.astype(int))
    return np.asarray(probe.decision_function(np.asarray(tested / scale, dtype=np.float32)))


def _exchanged(labels: np.ndarray, pairs: np.ndarray, draws: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Labels with harmful and harmless swapped within each pair or not, by a coin."""
    names, codes = np.unique(pairs, return_inverse=True)
    return [np.where(rng.random(len(names))[codes] < 0.5, ~labels, labels) for _ in range(draws)]


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    found = []
    numbers = t["contrasts"].fillna({"minus": ""})
    for attack in attacks_in(numbers):

        def number(part: str, minus: str = "", edge: str = "told", attack: str = attack) -> Any:
            return estimate_of(row(numbers, attack=attack, part=part, minus=minus, edge=edge))

        layer = int(row(numbers, attack=attack, part=EYES, edge="told")["layer"])
        chance = estimate_of(row(t["table"], attack=attack, part=EYES, layer=layer, method="shuffled"))
        found.append(
            Claim(
                id=f"eyes_tell_harm_{attack.lower()}",
                statement=f"In the last layer of the vision tower that the decoder is given, harm of {attack} pictures can be told.",
                estimate=number(EYES),
                direction="above",
                threshold=TOLD,
                unit="AUROC",
                controls=(Control("shuffled_labels", chance), Control("a probe of the pixels", number(PIXELS), kind="context")),
            )
        )
        for name, part, before, edge, what in (
            (
                "projector_loses_harm", PROJECTOR, EYES, "lost",
                f"The projector loses harm of {attack} pictures that the vision tower tells: AUROC falls by more than {-LOST:g}.",
            ),
            (
                "decoder_loses_harm", LAST, PROJECTOR, "lost",
                f"Harm of {attack} pictures that enters the decoder does not reach the last token: AUROC falls by more than {-LOST:g}.",
            ),
            (
                "decoder_makes_harm", LAST, PROJECTOR, "gained",
                f"Harm of {attack} pictures is told better at the last token than by the mean of what the projector hands over: AUROC "
                f"rises by more than {GAINED:g}.",
            ),
        ):  # fmt: skip
            found.append(
                Claim(
                    id=f"{name}_{attack.lower()}",
                    statement=what,
                    estimate=number(part, before, edge),
                    direction="below" if edge == "lost" else "above",
                    threshold=LOST if edge == "lost" else GAINED,
                    unit="AUROC, paired difference",
                    difference_to=f"the {before}",
                    controls=(Control(f"AUROC before, in the {before}", number(before), kind="context"),),
                    note="A probe of the mean over the picture; a harm that only single tokens tell is not seen by it.",
                )
            )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    probes = t["table"][t["table"]["method"] == "probe"]
    fig, axes = new_figure(rows=1, cols=3, width="full", height=3.0, width_ratios=(1.2, 1.0, 1.0), squeeze=False)
    eyes = probes[probes["part"].isin([PIXELS, EYES, PROJECTOR])]
    last = int(eyes[eyes["part"] == EYES]["layer"].max())
    places = eyes["layer"].where(eyes["part"] == EYES, eyes["part"].map({PIXELS: -1, PROJECTOR: last + 1}))
    panels.layer_curve(axes[0][0], eyes.assign(layer=places.astype(int)), xlabel="layer of the eyes", ylabel="AUROC of harm",
                       reference=0.5, legend=False)  # fmt: skip
    layers = sorted({round(x) for x in np.linspace(0, last, min(last + 1, 4))})
    axes[0][0].set_xticks([-1, *layers, last + 1], [PIXELS, *map(str, layers), PROJECTOR])
    axes[0][0].tick_params(axis="x", labelrotation=30)
    for ax, part in zip(axes[0][1:], (IMAGE, LAST), strict=True):
        panels.layer_curve(ax, probes[probes["part"] == part], reference=0.5, legend=part == IMAGE)
    for ax, title in zip(axes[0], ("eyes and projector", "image tokens (mean)", "last prompt token"), strict=True):
        ax.set_title(title)
        ax.set_ylim(0.2, 1.03)
    return fig


ANALYSIS = Analysis(
    id="harm_by_stage",
    title="From which stage on harm can be told",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2410.06809"),
    requires_images=True,
    cost=cost,
    attacks=(Attack.SD, Attack.TYPO),
    data=COMPARED,
    profiles={"full": {"pairs": None, "fit_pairs": None, "layers": None, "draws": 100}},
    order=19,
    captions={
        "figure": "Probes of one size at every stage of a picture's way: a small copy of the pixels, the mean state of the picture in each "
        "layer of the vision tower that the decoder is given, after the projector, at the image tokens of the decoder, and the last "
        "prompt token. AUROC of harmful against harmless twins on test pairs; bands: 95 % over pairs."
    },
)
