"""Token strip: generated tokens in reading order, each on the colour of its score, replaced ones struck through."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import TwoSlopeNorm
from matplotlib.patches import FancyBboxPatch

from safesteer_interp.fonts import font_with
from safesteer_interp.plotting.palette import HARM, INK, MUTED
from safesteer_interp.plotting.panels.shared import need


def token_strip(
    ax: Axes,
    table: pd.DataFrame,
    *,
    token: str = "token",
    value: str = "score",
    struck: str | None = None,
    label: str = "probe score",
    center: float = 0.5,
    vmin: float = 0.0,
    vmax: float = 1.0,
    per_line: int = 64,
    colorbar: bool = True,
) -> None:
    """Tokens left to right, wrapped after `per_line` characters, coloured by score around `center`.

    `struck` names a column with the token that would have come without the intervention (empty: none); it is written above, struck
    through. Raises ValueError for a missing column or an empty table.
    """
    need(table, [token, value, *([struck] if struck else [])], "token_strip")
    colors, norm = mpl.colormaps[HARM], TwoSlopeNorm(center, vmin, vmax)
    column = line = 0
    for text, score, old in zip(
        table[token].astype(str), table[value].to_numpy(float), table[struck] if struck else [""] * len(table), strict=True
    ):
        shown = visible(text)
        old_shown = visible(str(old)) if isinstance(old, str) and old else ""
        width = max(len(shown), len(old_shown)) + 1
        if column and column + width > per_line:
            column, line = 0, line + 1
        y = -line * (2.2 if struck else 1.4)
        face = "#eeeeee" if np.isnan(score) else colors(norm(np.clip(score, vmin, vmax)))
        box = FancyBboxPatch(
            (column + 0.1, y - 0.45), width - 0.4, 0.9, boxstyle="round,pad=0,rounding_size=0.3", facecolor=face, linewidth=0
        )
        ax.add_patch(box)
        dark = not np.isnan(score) and sum(a * b for a, b in zip(face[:3], (0.2126, 0.7152, 0.0722), strict=True)) < 0.5
        ax.text(column + width / 2 - 0.1, y, shown, ha="center", va="center", family="monospace", fontsize=6.5,
                color="white" if dark else INK, parse_math=False)  # fmt: skip
        if old_shown:
            ax.text(column + width / 2 - 0.1, y + 0.85, old_shown, ha="center", va="center", family="monospace", fontsize=6.5,
                    color=MUTED, parse_math=False)  # fmt: skip
            half = len(old_shown) / 2
            ax.plot([column + width / 2 - 0.1 - half, column + width / 2 - 0.1 + half], [y + 0.85] * 2, color=MUTED, linewidth=0.7)
        column += width
    ax.set_xlim(0, per_line)
    ax.set_ylim(-line * (2.2 if struck else 1.4) - 0.8, 1.5 if struck else 0.8)
    ax.set_axis_off()
    if colorbar:
        ax.figure.colorbar(ScalarMappable(norm, colors), ax=ax, orientation="horizontal", label=label, fraction=0.06, pad=0.04, aspect=40)


def visible(text: str) -> str:
    """The token with what cannot be seen written out: a blank as "·", a line break as "⏎", a tab as "→".

    A letter that no font here has, or that is none, becomes "�".
    """
    seen = text.replace("\n", "⏎").replace("\t", "→").replace(" ", "·")
    return "".join(c if c.isprintable() and font_with(c) else "�" for c in seen) or "∅"
