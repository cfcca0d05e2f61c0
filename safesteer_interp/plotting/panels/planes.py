"""Planes: two measures against each other, with intervals on both, and paired shifts between two conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.markers import MarkerStyle

from safesteer_interp.plotting.palette import style_of
from safesteer_interp.plotting.panels.shared import groups_of, legend_below, need

SAME = 0.01
"""Points nearer to one another than this share of what an axis shows, on both, lie on one spot."""
_EVEN = {"*": 1.6, "h": 1.2, "p": 1.2}
"""Markers that look smaller than others of the same size, and how much larger they are drawn."""
CORNERS = ((0.02, 0.02), (0.85, 0.85), (0.85, 0.02), (0.02, 0.85))
"""Where an arrow that says what is better may stand, in shares of the axes, the first choice first."""


def tradeoff_plane(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str = "method",
    kind: str = "method",
    shape: str | None = None,
    xlabel: str = "",
    ylabel: str = "",
    pareto: bool = True,
    legend: bool = True,
) -> None:
    """One point per row with intervals on both axes (columns `x`_low, `x`_high, `y`_low, `y`_high); lower left is better on both.

    The axes show what there is with a margin. Where points coincide, all but the first are open markers around it, each larger.
    `pareto` joins the points that no other point beats on both. With `shape` (say, the model) markers follow that column and colours
    follow `by`. Raises ValueError for a missing column or an empty table.
    """
    ends = [f"{axis}_{end}" for axis in (x, y) for end in ("low", "high")]
    need(table, [x, y, by, *ends, *([shape] if shape else [])], "tradeoff_plane")
    placed: list[tuple[float, float]] = []
    near = [SAME * _spread(table, axis) for axis in (x, y)]
    for rows, look in groups_of(table, by, kind, ax.figure):
        for _, row in rows.iterrows():
            form = style_of("model", str(row[shape])) if shape else look
            ax.hlines(row[y], row[f"{x}_low"], row[f"{x}_high"], color=look.color, linewidth=1.0, alpha=0.6)
            ax.vlines(row[x], row[f"{y}_low"], row[f"{y}_high"], color=look.color, linewidth=1.0, alpha=0.6)
            label = f"{look.label}, {form.label}" if shape else look.label
            below = sum(abs(a - row[x]) <= near[0] and abs(b - row[y]) <= near[1] for a, b in placed)
            placed.append((row[x], row[y]))
            ax.scatter([], [], s=34, color=look.color, marker=form.marker, label=label)
            paint: dict[str, Any] = {"color": look.color}
            if below and MarkerStyle(form.marker).is_filled():
                paint = {"facecolor": "none", "edgecolor": look.color, "linewidth": 1.2}
            size = 34 * (1 + 0.8 * below) ** 2 * _EVEN.get(form.marker, 1.0)
            ax.scatter(row[x], row[y], s=size, marker=form.marker, zorder=3 + below, clip_on=not below, **paint)
    if pareto and len(table) > 1:
        front = pareto_front(table[x].tolist(), table[y].tolist())
        points = table.iloc[front].sort_values(x)
        ax.plot(points[x], points[y], color="#8c8c8c", linewidth=0.9, linestyle=":", label="Pareto front", zorder=1)
    ax.grid(visible=True, axis="both")
    ax.set_xlabel(xlabel or x)
    ax.set_ylabel(ylabel or y)
    for axis in (x, y):
        low, high = _ends(table, axis)
        margin = 0.06 * ((high - low) or 1.0)
        (ax.set_xlim if axis == x else ax.set_ylim)(low - margin, high + margin)
    _better(ax, table, x, y)
    if legend:
        legend_below(ax)


def _ends(table: pd.DataFrame, axis: str) -> tuple[float, float]:
    """Where points and intervals begin and end."""
    seen = table[[axis, f"{axis}_low", f"{axis}_high"]].to_numpy(float)
    return float(np.nanmin(seen)), float(np.nanmax(seen))


def _spread(table: pd.DataFrame, axis: str) -> float:
    low, high = _ends(table, axis)
    return high - low


def _better(ax: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    """An arrow to the lower left, in the corner that fewest points and intervals reach into."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()

    def reaching(corner: tuple[float, float]) -> int:
        """How many crosses of two intervals reach into a corner, an eighth of both axes."""
        (a, b), (c, d) = (
            (lo + z * (hi - lo), lo + (z + 0.13) * (hi - lo)) for z, lo, hi in zip(corner, (left, bottom), (right, top), strict=True)
        )
        across = table[f"{x}_low"].le(b) & table[f"{x}_high"].ge(a) & table[y].between(c, d)
        upright = table[f"{y}_low"].le(d) & table[f"{y}_high"].ge(c) & table[x].between(a, b)
        return int((across | upright).sum())

    at = min(CORNERS, key=reaching)
    ax.annotate("better", at, xycoords="axes fraction", xytext=(at[0] + 0.09, at[1] + 0.09), textcoords="axes fraction", fontsize=7,
                color="#6b6b6b", arrowprops={"arrowstyle": "->", "color": "#6b6b6b", "linewidth": 0.8})  # fmt: skip


def pareto_front(xs: list[float], ys: list[float]) -> list[int]:
    """Indices of the points that no other point beats (smaller or equal on both, smaller on one)."""
    points = list(zip(xs, ys, strict=True))
    return [i for i, (a, b) in enumerate(points) if not any(c <= a and d <= b and (c < a or d < b) for c, d in points)]


def paired_arrows(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x0: str,
    y0: str,
    x1: str,
    y1: str,
    by: str | None = "attack",
    kind: str | None = None,
    xlabel: str = "",
    ylabel: str = "",
    legend: bool = True,
) -> None:
    """An arrow per pair from one condition to the other, faint, and the mean arrow of each entity, bold.

    Raises ValueError for a missing column or an empty table.
    """
    need(table, [x0, y0, x1, y1, *([by] if by else [])], "paired_arrows")
    for rows, look in groups_of(table, by, kind, ax.figure):
        start = rows[[x0, y0]].to_numpy(float)
        shift = rows[[x1, y1]].to_numpy(float) - start
        thin: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "color": look.color}
        ax.quiver(*start.T, *shift.T, alpha=0.22, width=0.0025, **thin)
        ax.quiver(*start.mean(0), *shift.mean(0), width=0.008, zorder=4, label=look.label, **thin)
        ends = pd.DataFrame(start + shift)
        ax.scatter(ends[0], ends[1], s=8, alpha=0.4, color=look.color, marker=look.marker, linewidths=0.4)
    ax.autoscale_view()
    ax.grid(visible=True, axis="both")
    ax.set_xlabel(xlabel or x0)
    ax.set_ylabel(ylabel or y0)
    if legend and by:
        legend_below(ax)
