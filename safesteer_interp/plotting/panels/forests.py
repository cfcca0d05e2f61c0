"""Forest plot: estimates with their intervals, one row per label."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from safesteer_interp.plotting.panels.shared import groups_of, legend_below, need, reference_line


def forest(
    ax: Axes,
    table: pd.DataFrame,
    *,
    label: str = "label",
    value: str = "value",
    low: str = "low",
    high: str = "high",
    by: str | None = None,
    kind: str | None = None,
    reference: float | None = None,
    reference_label: str = "",
    xlabel: str = "",
    legend: bool = True,
) -> None:
    """One row per label, top to bottom as in the table; entities of `by` lie side by side within a row that has several.

    An interval without a value (a threshold that was not reached) is marked as such.
    Raises ValueError for a missing column or an empty table.
    """
    need(table, [label, value, low, high, *([by] if by else [])], "forest")
    rows = {name: i for i, name in enumerate(dict.fromkeys(map(str, table[label])))}
    groups = groups_of(table, by, kind, ax.figure)
    several = by is not None and by != label and int(table.groupby(table[label].astype(str))[by].nunique().max()) > 1
    step = min(0.8 / len(groups), 0.3) if several else 0.0
    for i, (part, look) in enumerate(groups):
        shift = (i - (len(groups) - 1) / 2) * step
        y = part[label].astype(str).map(rows).to_numpy(float) + shift
        x = part[value].to_numpy(float)
        ax.hlines(y, part[low].to_numpy(float), part[high].to_numpy(float), color=look.color, linewidth=1.5, zorder=2)
        ax.scatter(x, y, s=24, zorder=3, linewidths=1.2, **look.scatter())
        middle = (part[low].to_numpy(float) + part[high].to_numpy(float)) / 2
        for at, place in zip(middle[np.isnan(x)], y[np.isnan(x)], strict=True):
            if np.isfinite(at):
                ax.annotate("no value: not reached", (at, place), xytext=(0, 3), textcoords="offset points", ha="center", va="bottom",
                            fontsize=6.5, color=look.color)  # fmt: skip
    for edge in np.arange(len(rows) - 1) + 0.5:
        ax.axhline(edge, color="#eeeeee", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(xlabel)
    reference_line(ax, reference, reference_label, axis="x")
    if legend and by:
        legend_below(ax)
