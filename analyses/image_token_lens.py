"""Where in a picture does the model see harm, what do single image tokens read as, and do they say so to the first answer token?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._causes import DONOR, QUANTITIES, Rows, at_depth, forms, layer_grid, meter_gradients, pair_by_pair, specs
from ._shared import attacks_in, row

PIXELS, WORDS = "pixels that differ", "words of its own"
"""What counts as the place of the harm."""
CHANGE, BEYOND = "change", "minus change"
"""The map that knows neither gradient nor head, and the rows that say how much better another map does, picture by picture."""
WORDED, COVERED = (Attack.TYPO, Attack.SD_TYPO), 0.25
"""Forms that spell the harm out; share of a token's cell that a word's box must cover."""
EARLY, CHANCE = 0.1, 0.5
"""Depth that the claims are about (image tokens are read early), fixed beforehand; AUROC of a map that knows nothing."""
SIDE = 80
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
    over tokens, mean over pictures), minus that of shuffled tokens and minus that of the map `change` in the same pictures; `tokens` and
    `pictures`: the maps that are drawn, and the pictures.

    Of pictures with words a second truth: among the tokens that carry letters (as drawn here, else as OCR reads them), those of words that
    only the harmful picture has. Shuffled among the letters' tokens.

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
    claimed, by_pair = at_depth(layers, EARLY), forms(ctx, p)
    shown = list(by_pair)[: p.shown]

    def measured(pair: str, requests: dict[tuple[str, bool], Request]) -> Rows:
        kept: Rows = {"found": [], "tokens": [], "pictures": []}
        blank = record(model, requests[str(DONOR), True])
        for attack in p.attacks:
            rng = ctx.rng(f"shuffled tokens {attack} {pair}")
            harmful, twin = (record(model, requests[attack, side]) for side in (True, False))
            grid = token_grid(model, harmful)
            carries = share_of_cells(differing_pixels(harmful, twin), grid) > 0
            letters, own = _worded(ctx, requests[attack, True], requests[attack, False], grid)
            truths = {PIXELS: (np.ones_like(carries), carries), WORDS: (letters, own)}
            gradients = token_gradients(model, harmful, metrics, layers)
            for layer in layers:
                place = Site(SiteKind.EMBED) if layer == 0 else Site(SiteKind.RESID_POST, layer - 1)
                states = image_states(harmful, place)
                maps = {name: pushes(harmful, blank, g[layer], layer).cpu().numpy() for name, g in zip(QUANTITIES, gradients, strict=True)}
                maps[CHANGE] = (states - image_states(blank, place)).float().norm(dim=-1).cpu().numpy()
                for truth, (among, those) in truths.items():
                    wanted = those[among]
                    for name, values in maps.items() if wanted.any() and not wanted.all() else ():
                        strength = np.abs(values[among])
                        null = np.mean([auroc(rng.permutation(strength), wanted) for _ in range(max(1, p.shuffles // 20))])
                        base = {"attack": attack, "layer": layer, "map": name, "truth": truth, "pair": pair}
                        kept["found"].append(base | {"auroc": float(auroc(strength, wanted)), "shuffled": float(null)})
                if pair in shown and layer == claimed:
                    words = [model.tokenizer.decode([int(i)]).strip() for i in lens(model, states).argmax(-1)]
                    kept["tokens"] += [
                        {"attack": attack, "pair": pair, "layer": layer, "row": i // grid[1], "column": i % grid[1], "word": words[i]}
                        | {name: float(values[i]) for name, values in maps.items()}
                        | {"carries": bool(carries[i]), "worded": bool(own[i])}
                        for i in range(len(values))
                    ]
            if pair in shown:
                kept["pictures"] += _kept(requests[attack, True].image, attack, pair)
        return kept

    found = pair_by_pair(ctx, "pairs", by_pair, measured)
    return found["found"], found["tokens"], found["pictures"]


def _worded(ctx: Context, harmful: Request, twin: Request, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Which image tokens carry letters, and which carry a word that only the harmful picture has; none where no words are known."""
    from safesteer_interp.datasets.wording import own_words, pixels_of, words_of
    from safesteer_interp.interventions.image_tokens import share_of_cells

    nothing = np.zeros(grid[0] * grid[1], dtype=bool)
    if ctx.known_answer or Attack(harmful.attack) not in WORDED:
        return nothing, nothing
    known = [words_of(request.image) for request in (harmful, twin)]
    if harmful.image is None or known[0] is None or known[1] is None:
        return nothing, nothing
    (words, _), (others, _) = known[0], known[1]
    width, height = harmful.image.load().size
    letters, own = (share_of_cells(pixels_of(boxes, height, width), grid) >= COVERED for boxes in (words, own_words(words, others)))
    return letters | own, own


def _kept(image: Any, attack: str, pair: str) -> list[dict[str, Any]]:
    """A small copy of a picture, a row of pixels a row, in hexadecimal."""
    small = np.asarray(image.load().convert("RGB").resize((SIDE, SIDE)), dtype=np.uint8)
    return [{"attack": attack, "pair": pair, "y": y, "pixels": "x" + line.tobytes().hex()} for y, line in enumerate(small)]


def _summaries(found: pd.DataFrame, seed: int) -> pd.DataFrame:
    from safesteer_interp.statistics import cluster_mean

    rows = []
    keys = ["attack", "layer", "truth", "pair"]
    found = found.merge(found[found["map"] == CHANGE][[*keys, "auroc"]].rename(columns={"auroc": CHANGE}), on=keys)
    for (attack, layer, name, truth), part in found.groupby(["attack", "layer", "map", "truth"], sort=False):
        base, pairs = {"attack": attack, "layer": layer, "map": name, "truth": truth}, part["pair"].to_numpy(str)
        measured = [("auroc", part["auroc"], CHANCE, (0.0, 1.0)), ("minus shuffled", part["auroc"] - part["shuffled"], 0.0, (-1.0, 1.0))]
        if name != CHANGE:
            measured.append((BEYOND, part["auroc"] - part[CHANGE], 0.0, (-1.0, 1.0)))
        for quantity, values, against, bounds in measured:
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

            def controls(truth: str, attack: str = attack, name: str = name) -> tuple[Control, ...]:
                """What knows nothing, and what needs neither gradient nor head: the distance from the blank picture's token."""
                where = {"attack": attack, "layer": layer, "map": name, "truth": truth}
                return (
                    Control("shuffled tokens", estimate_of(row(table, **where, quantity="minus shuffled")), kind="paired"),
                    Control("distance from the blank token", estimate_of(row(table, **where, quantity=BEYOND)), kind="paired"),
                )

            where = {"attack": attack, "layer": layer, "map": name, "quantity": "auroc"}
            found.append(
                Claim(
                    id=f"{name}_map_finds_the_harm_{attack.lower()}",
                    statement=f"In {attack} pictures the image tokens that push {what} most are those in which the harmful picture differs "
                    "from its harmless twin, and they tell the place better than the distance from the blank picture's tokens does.",
                    estimate=estimate_of(row(table, **where, truth=PIXELS)),
                    direction="above",
                    threshold=CHANCE,
                    unit="AUROC over image tokens",
                    controls=controls(PIXELS),
                    note="Ground truth is where the pixels of the pair's two pictures differ: where there is anything at all.",
                )
            )
            if not ((table["attack"] == attack) & (table["truth"] == WORDS)).any():
                continue
            found.append(
                Claim(
                    id=f"{name}_map_finds_the_words_{attack.lower()}",
                    statement=f"Among the image tokens of {attack} pictures that carry letters, those of words that only the harmful "
                    f"picture has push {what} most, and this tells them better than the distance from the blank picture's tokens does.",
                    estimate=estimate_of(row(table, **where, truth=WORDS)),
                    direction="above",
                    threshold=CHANCE,
                    unit="AUROC over image tokens with letters",
                    controls=controls(WORDS),
                    note="Where words are is known from how pictures are drawn, of other pictures from an OCR engine.",
                )
            )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels

    shown = t["table"][t["table"]["quantity"] == "auroc"]
    pairs = [(a, truth) for a in attacks_in(shown) for truth in (PIXELS, WORDS) if (shown["attack"].eq(a) & shown["truth"].eq(truth)).any()]
    curves, axes = new_figure(rows=1, cols=len(pairs), width="full", height=2.8, squeeze=False)
    for i, ((attack, truth), ax) in enumerate(zip(pairs, axes[0], strict=True)):
        part = shown[(shown["attack"] == attack) & (shown["truth"] == truth)]
        panels.layer_curve(ax, part, by="map", kind="series", reference=CHANCE, legend=not i,
                           ylabel="" if i else "harm located (AUROC over tokens)")  # fmt: skip
        ax.set_title(f"{attack}: {truth}")
        ax.set_ylim(0, 1.03)
    return {"figure": _overlays(t), "layers": curves}


def _overlays(t: dict[str, pd.DataFrame]) -> Any:
    """Picture by picture: the picture, where the pair differs, what pushes the probe, and what pushes refusal, with what tokens read as."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable

    from safesteer_interp.plotting import new_figure, palette
    from safesteer_interp.plotting.style import in_column

    keys = sorted(dict.fromkeys(zip(t["tokens"]["attack"], t["tokens"]["pair"], strict=True)))
    fig, ax = new_figure(width="full", height=(0.86 if in_column() else 1.72) * max(len(keys), 1) + 1.15)
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
            ax.spines[:].set_visible(False)
        line[0].imshow(picture)
        line[0].set_ylabel(attack)
        line[1].imshow(grey)
        cells = lot.sort_values(["row", "column"])
        truth = cells["carries"].astype(bool).to_numpy().reshape(rows, columns).astype(float)
        line[1].imshow(np.ma.masked_equal(truth, 0), extent=box, cmap=mpl.colors.ListedColormap([palette.VERMILLION]), alpha=0.5)
        across, down = size / columns, size / rows
        for cell in cells[cells["worded"].astype(bool)].itertuples():
            corner = (cell.column * across - 0.5, cell.row * down - 0.5)
            line[1].add_patch(mpl.patches.Rectangle(corner, across, down, fill=False, edgecolor=palette.INK, linewidth=0.6))
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
    for ax, title in zip(axes[0], ("picture", "harm", "probe", "refusal"), strict=True):
        ax.set_title(title)
    bar = fig.colorbar(ScalarMappable(mpl.colors.Normalize(-1, 1), palette.HARM), ax=axes, orientation="horizontal",
                       fraction=0.05, shrink=0.5, anchor=(1.0, 0.5), aspect=30, ticks=[-0.9, 0.9])  # fmt: skip
    bar.ax.set_xticklabels(["away", "towards it"])
    bar.ax.tick_params(length=0)
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
        "figure": "Left to right: the picture; where it differs from its harmless twin (outlined: words of its own); "
        "first-order push of every image token on the "
        "probe's log-odds of harm, and on refusal log-odds, against the blank picture's token at its place (vermillion: towards, "
        "green: away); rings: the three strongest. Activities are drawn as benchmark requests only.",
        "layers": "How well each map, taken at the input of a layer, finds the tokens in which the harmful picture differs from its "
        "harmless twin and, among tokens with letters, those of words that only the harmful one has. Shuffled tokens: one half; "
        "change: the distance from the blank picture's token, which a map has to do better than. Bands: 95 % over pairs.",
    },
)
