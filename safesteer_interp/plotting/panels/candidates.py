"""Candidate grid: what could have been said at each guided step, how likely it was, how it scored, and what was taken."""

from __future__ import annotations

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm, to_rgb
from matplotlib.patches import Rectangle

from safesteer_interp.plotting.palette import HARM, INK, MUTED
from safesteer_interp.plotting.panels.shared import need
from safesteer_interp.plotting.panels.strips import visible


def candidate_grid(
    ax: Axes, table: pd.DataFrame, *, limit: float, center: float = 0.0, longest: int = 11, xlabel: str = "answer token"
) -> None:
    """Steps from left to right, candidates from likely to unlikely downwards, on the colour of their score (center +- limit).

    Columns: step (from 0), rank (from 0), token, probability, score, chosen and plain (whether ordinary sampling would have drawn it).
    The chosen candidate is framed, the one ordinary sampling would have drawn is struck through where it is another; tokens longer than
    `longest` are cut. Raises ValueError for a missing column or an empty table.
    """
    need(table, ["step", "rank", "token", "probability", "score", "chosen", "plain"], "candidate_grid")
    colors, norm = mpl.colormaps[HARM], TwoSlopeNorm(center, center - limit, center + limit)
    for row in table.itertuples():
        x, y = int(row.step), int(row.rank)
        face = to_rgb(colors(norm(min(max(float(row.score), center - limit), center + limit))))
        dark = sum(a * b for a, b in zip(face, (0.2126, 0.7152, 0.0722), strict=True)) < 0.5
        ink = "white" if dark else INK
        ax.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=face, linewidth=0, zorder=1))
        shown = visible(str(row.token))
        shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
        share = "<1 %" if row.probability < 0.005 else f"{100 * row.probability:.0f} %"
        text = ax.text(
            x, y - 0.17, shown, ha="center", va="center", family="monospace", fontsize=6.5, color=ink, parse_math=False, zorder=3
        )
        ax.text(x, y + 0.22, f"{share}  {row.score:+.1f}".replace("-", "−"), ha="center", va="center", fontsize=6.5, color=ink, zorder=3)
        if row.chosen:
            ax.add_patch(Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, fill=False, edgecolor=INK, linewidth=1.6, zorder=4))
            text.set_fontweight("bold")
        elif row.plain:
            half = 0.042 * len(shown) + 0.02
            ax.plot([x - half, x + half], [y - 0.17] * 2, color=ink, linewidth=0.9, zorder=4)
    steps, ranks = int(table["step"].max()), int(table["rank"].max())
    ax.set_xlim(-0.52, steps + 0.52)
    ax.set_ylim(ranks + 0.52, -0.52)
    ax.set_xticks(range(steps + 1), [str(s + 1) for s in range(steps + 1)])
    ax.set_yticks([])
    ax.set_xlabel(xlabel)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.set_ylabel("← less likely", color=MUTED, fontsize=7)
