"""Rows of scores: every request as a point on one axis, a row for each form, classes beside each other, with the mean of each."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from safesteer_interp.plotting.palette import INK
from safesteer_interp.plotting.panels.shared import groups_of, legend_below, need, reference_line


def score_rows(
    ax: Axes,
    table: pd.DataFrame,
    *,
    value: str = "score",
    label: str = "attack",
    by: str = "class",
    kind: str | None = None,
    reference: float | None = None,
    reference_label: str = "",
    xlabel: str = "",
    legend: bool = True,
) -> None:
    """One row per label, top to bottom as in the table; the points of each entity of `by` lie spread in a lane of their own, and a bar
    marks their mean. Nothing is random: points are spread by their order. Raises ValueError for a missing column or an empty table.
    """
    need(table, [value, label, by], "score_rows")
    rows = {name: i for i, name in enumerate(dict.fromkeys(map(str, table[label])))}
    groups = groups_of(table, by, kind, ax.figure)
    lane = 0.8 / len(groups)
    for i, (part, look) in enumerate(groups):
        middle = part[label].astype(str).map(rows).to_numpy(float) + (i - (len(groups) - 1) / 2) * lane
        spread = (np.arange(len(part)) * 0.618034 % 1 - 0.5) * lane * 0.7
        ax.scatter(part[value], middle + spread, s=7, alpha=0.55, linewidths=0, zorder=2, color=look.color, marker=look.marker)
        ax.scatter([], [], s=18, label=look.label, color=look.color, marker=look.marker)
        means = part.groupby(label, sort=False)[value].mean()
        for name, mean in means.items():
            y = rows[str(name)] + (i - (len(groups) - 1) / 2) * lane
            ax.plot([mean, mean], [y - 0.48 * lane, y + 0.48 * lane], color=INK, linewidth=1.8, zorder=3, solid_capstyle="butt")
    for edge in np.arange(len(rows) - 1) + 0.5:
        ax.axhline(edge, color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.grid(axis="x")
    ax.set_xlabel(xlabel)
    reference_line(ax, reference, reference_label, axis="x")
    if legend:
        legend_below(ax)
