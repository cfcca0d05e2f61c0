"""Where in a picture does the model see harm, what do single image tokens read as, and do they say so to the first answer token?"""

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

from ._causes import DONOR, QUANTITIES, at_depth, forms, layer_grid, meter_gradients, specs
from ._shared import attacks_in, row

EARLY, CHANCE = 0.1, 0.5
"""Depth that the claims are about (image tokens are read early), fixed beforehand; AUROC of a map that knows nothing."""
PIXELS = 80
"""Side length at which shown pictures are kept in the tables."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 16
    """Pairs of the test split."""
    attacks: tuple[str, ...] = ("SD", "TYPO")
    """Forms whose harm lies in the image."""
    layers: int | None = 6
    """Layers, evenly spaced; None: all."""
    shuffles: int = 200
    """Shuffles of a picture's tokens, the null of every map."""
    shown: int = 2
    """Pictures of each form that are drawn."""
    seed: int = 0
    """Seed of the intervals and shuffles."""


def needs(p: Params) -> list[TraceSpec]:
    return specs(p)


def cost(p: Params, pairs: int, n_layers: int) -> str:
    """Recordings and backward passes."""
    pictures = pairs * len(p.attacks)
    return f"{pairs + 2 * pictures} recorded prompt passes, {pictures} forward and {len(QUANTITIES) * pictures} backward passes"


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: by form, layer and map, how well the map finds the tokens in which the harmful picture differs from its harmless twin (AUROC
    over tokens, mean over pictures), and the same of shuffled tokens; `tokens` and `pictures`: the maps that are drawn, and the pictures.

    Maps: `refusal` and `probe`, how strongly each token pushes refusal log-odds and the probe, to first order, against the blank picture's
    token at its place (the refusal Jacobian); `change`, how far it is from that token (no gradient, no head).
    """
    found, tokens, pictures = _measured(ctx, p)
    return {"table": _summaries(found, ctx.seed("intervals")), "tokens": tokens, "pictures": pictures}


def _measured(ctx: Context, p: Params) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Per picture, layer and map: its AUROC and that of shuffled tokens; the maps and pictures that are drawn."""
    from safesteer_interp.interventions.image_tokens import (
        differing_pixels,
        image_states,
        lens,
        pushes,
        share_of_cells,
        token_gradients,
        token_grid,
    )
    from safesteer_interp.interventions.recording import record
    from safesteer_interp.sites import Site, SiteKind
    from safesteer_interp.statistics import auroc

    model, metrics, layers = ctx.model, meter_gradients(ctx, p), layer_grid(ctx.n_layers, p.layers)
    claimed, rng = at_depth(layers, EARLY), ctx.rng("shuffled tokens")
    found, tokens, pictures = [], [], []
    for number, (pair, requests) in enumerate(ctx.track(forms(ctx, p).items(), "pairs")):
        blank = record(model, requests[str(DONOR), True])
        for attack in p.attacks:
            harmful, twin = (record(model, requests[attack, side]) for side in (True, False))
            grid = token_grid(model, harmful)
            share = share_of_cells(differing_pixels(harmful, twin), grid)
            carries = share > 0
            gradients = token_gradients(model, harmful, metrics, layers)
            for layer in layers:
                place = Site(SiteKind.EMBED) if layer == 0 else Site(SiteKind.RESID_POST, layer - 1)
                states = image_states(harmful, place)
                maps = {name: pushes(harmful, blank, g[layer], layer).cpu().numpy() for name, g in zip(QUANTITIES, gradients, strict=True)}
                maps["change"] = (states - image_states(blank, place)).float().norm(dim=-1).cpu().numpy()
                for name, values in maps.items():
                    if carries.all() or not carries.any():
                        continue
                    score = auroc(np.abs(values), carries)
                    null = np.mean([auroc(np.abs(rng.permutation(values)), carries) for _ in range(max(1, p.shuffles // 20))])
                    found.append({"attack": attack, "layer": layer, "map": name, "pair": pair, "auroc": score, "shuffled": null})
                if number < p.shown and layer == claimed:
                    words = [model.tokenizer.decode([int(i)]).strip() for i in lens(model, states).argmax(-1)]
                    tokens += [
                        {"attack": attack, "pair": pair, "layer": layer, "row": i // grid[1], "column": i % grid[1], "word": words[i]}
                        | {name: float(values[i]) for name, values in maps.items()}
                        | {"carries": bool(carries[i])}
                        for i in range(len(values))
                    ]
            if number < p.shown:
                pictures += _kept(requests[attack, True].image, attack, pair)
    return pd.DataFrame(found), pd.DataFrame(tokens), pd.DataFrame(pictures)


def _kept(image: Any, attack: str, pair: str) -> list[dict[str, Any]]:
    """A small copy of a picture, a row of pixels a row, in hexadecimal."""
    small = np.asarray(image.load().convert("RGB").resize((PIXELS, PIXELS)), dtype=np.uint8)
    return [{"attack": attack, "pair": pair, "y": y, "pixels": "x" + line.tobytes().hex()} for y, line in enumerate(small)]


def _summaries(found: pd.DataFrame, seed: int) -> pd.DataFrame:
    from safesteer_interp.statistics import cluster_mean

    rows = []
    for (attack, layer, name), part in found.groupby(["attack", "layer", "map"], sort=False):
        base, pairs = {"attack": attack, "layer": layer, "map": name}, part["pair"].to_numpy(str)
        for quantity, values, against, bounds in (
            ("auroc", part["auroc"], CHANCE, (0.0, 1.0)),
            ("minus shuffled", part["auroc"] - part["shuffled"], 0.0, (-1.0, 1.0)),
        ):
            rows.append(
                base
                | {"quantity": quantity}
                | cluster_mean(values.to_numpy(float), pairs, against=against, bounds=bounds, seed=seed).as_row()
            )
    return pd.DataFrame(rows)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    found, table = [], t["table"]
    layer = at_depth(table["layer"], EARLY)
    words = {"probe": "the probe's reading of harm", "refusal": "the first token's refusal"}
    for attack in attacks_in(table):
        for name, what in words.items():
            where = {"attack": attack, "layer": layer, "map": name}
            found.append(
                Claim(
                    id=f"{name}_map_finds_the_harm_{attack.lower()}",
                    statement=f"In {attack} pictures the image tokens that push {what} most are those in which the harmful picture differs "
                    "from its harmless twin.",
                    estimate=estimate_of(row(table, **where, quantity="auroc")),
                    direction="above",
                    threshold=CHANCE,
                    unit="AUROC over image tokens",
                    controls=(Control("shuffled tokens", estimate_of(row(table, **where, quantity="minus shuffled")), kind="paired"),),
                    note="Ground truth is where the pixels of the pair's two pictures differ.",
                )
            )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels

    shown = t["table"][t["table"]["quantity"] == "auroc"]
    attacks = attacks_in(shown)
    curves, axes = new_figure(rows=1, cols=len(attacks), width="full", height=2.8, squeeze=False)
    for i, (attack, ax) in enumerate(zip(attacks, axes[0], strict=True)):
        panels.layer_curve(ax, shown[shown["attack"] == attack], by="map", kind="series", reference=CHANCE, legend=not i,
                           ylabel="" if i else "harm located (AUROC over tokens)")  # fmt: skip
        ax.set_title(attack)
        ax.set_ylim(0, 1.03)
    return {"figure": _overlays(t), "layers": curves}


def _overlays(t: dict[str, pd.DataFrame]) -> Any:
    """Picture by picture: the picture, where the pair differs, what pushes the probe, and what pushes refusal, with what tokens read as."""
    import matplotlib as mpl

    from safesteer_interp.plotting import new_figure, palette

    keys = sorted(dict.fromkeys(zip(t["tokens"]["attack"], t["tokens"]["pair"], strict=True)))
    fig, ax = new_figure(width="full", height=1.75 * max(len(keys), 1) + 0.3)
    ax.remove()
    axes = fig.subplots(max(len(keys), 1), 4, squeeze=False)
    for line, (attack, pair) in zip(axes, keys, strict=True):
        lot = t["tokens"][(t["tokens"]["attack"] == attack) & (t["tokens"]["pair"] == pair)]
        kept = t["pictures"][(t["pictures"]["attack"] == attack) & (t["pictures"]["pair"] == pair)].sort_values("y")
        picture = np.array([np.frombuffer(bytes.fromhex(x[1:]), dtype=np.uint8).reshape(-1, 3) for x in kept["pixels"]])
        grey = np.repeat(picture.mean(axis=2, keepdims=True) / 255, 3, axis=2) * 0.55 + 0.45
        size, rows, columns = len(picture), int(lot["row"].max()) + 1, int(lot["column"].max()) + 1
        box = (-0.5, size - 0.5, size - 0.5, -0.5)
        for ax in line:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
        line[0].imshow(picture)
        line[0].set_ylabel(attack)
        line[1].imshow(grey)
        cells = lot.sort_values(["row", "column"])
        truth = cells["carries"].astype(bool).to_numpy().reshape(rows, columns).astype(float)
        line[1].imshow(np.ma.masked_equal(truth, 0), extent=box, cmap=mpl.colors.ListedColormap([palette.VERMILLION]), alpha=0.5)
        for ax, name in zip(line[2:], ("probe", "refusal"), strict=True):
            values = cells[name].to_numpy(float).reshape(rows, columns)
            limit = float(np.quantile(np.abs(values), 0.98)) or 1.0
            ax.imshow(grey)
            ax.imshow(values, extent=box, cmap=mpl.colormaps[palette.HARM], vmin=-limit, vmax=limit, alpha=0.62, interpolation="bicubic")
            strongest = cells.reset_index(drop=True)[name].abs().sort_values(ascending=False).index[:3]
            for place in strongest:
                cell = cells.iloc[place]
                x, y = ((float(cell[c]) + 0.5) * size / n - 0.5 for c, n in (("column", columns), ("row", rows)))
                ax.plot(x, y, marker="o", markersize=3.2, markerfacecolor="none", markeredgecolor=palette.INK, markeredgewidth=0.8)
    for ax, title in zip(axes[0], ("picture", "differs", "probe", "refusal"), strict=True):
        ax.set_title(title)
    return fig


ANALYSIS = Analysis(
    id="image_token_lens",
    title="Where a picture's harm is seen",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2310.10348", "arXiv:2602.00462"),
    requires_images=True,
    cost=cost,
    attacks=(Attack.CB, Attack.SD, Attack.TYPO),
    data=COMPARED,
    profiles={"full": {"pairs": None, "layers": None, "shuffles": 2000}},
    order=24,
    captions={
        "figure": "Left to right: the picture; where it differs from its harmless twin; first-order push of every image token on the "
        "probe's log-odds of harm, and on refusal log-odds, against the blank picture's token at its place (vermillion: towards, "
        "green: away); rings: the three strongest. Activities are drawn as benchmark requests only.",
        "layers": "How well each map, taken at the input of a layer, finds the tokens in which the harmful picture differs from its "
        "harmless twin. Shuffled tokens: one half. Bands: 95 % over pairs.",
    },
)
