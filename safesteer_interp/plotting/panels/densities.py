"""Scatter with marginal densities: two axes of a state space, entities by colour, forms by marker, and a fitted boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from safesteer_interp.plotting.palette import INK, Style, style_of
from safesteer_interp.plotting.panels.shared import SHAPE_ONLY, class_names, groups_of, kind_of, legend_below, need


def scatter_densities(
    owner: Figure | SubFigure,
    table: pd.DataFrame,
    *,
    x: str = "pc1",
    y: str = "pc2",
    by: str = "class",
    kind: str | None = None,
    shape: str | None = None,
    shape_kind: str = "attack",
    boundary: tuple[float, float, float] | None = None,
    boundary_label: str = "probe boundary",
    xlabel: str = "PC 1",
    ylabel: str = "PC 2",
    title: str = "",
    legend: bool = True,
) -> Axes:
    """A scatter with the density of each entity along both axes; returns the joint axes.

    `boundary` (a, b, c) draws the line a*x + b*y + c = 0, and shades nothing: which side is which follows from the points. With `shape`,
    markers tell the entities of a second column apart. Raises ValueError for a missing column or an empty table.
    """
    need(table, [x, y, by, *([shape] if shape else [])], "scatter_densities")
    table = table.assign(**{by: class_names(table[by])})
    axes = owner.subplots(2, 2, width_ratios=(5, 1), height_ratios=(1, 5), sharex="col", sharey="row")
    (top, corner), (joint, side) = axes
    corner.set_axis_off()
    for rows, look in groups_of(table, by, kind_of(by, kind)):
        _points(joint, rows, x, y, look.color, look.marker, look.label, shape, shape_kind)
        for ax, column, axis in ((top, x, "x"), (side, y, "y")):
            values = rows[column].to_numpy(float)
            if len(values) > 2 and np.ptp(values) > 0:
                sns.kdeplot(**{axis: values}, ax=ax, color=look.color, fill=True, alpha=0.18, linewidth=1.0, cut=1)
    if shape is not None:
        _shapes(joint, groups_of(table, shape, shape_kind))
    for ax in (top, side):
        ax.set_axis_off()
    if boundary is not None:
        _line(joint, boundary, boundary_label)
    joint.set_xlabel(xlabel)
    joint.set_ylabel(ylabel)
    joint.grid(visible=True, axis="both")
    if title:
        top.set_title(title)
    if legend:
        legend_below(owner)
    return joint


def _points(ax: Axes, rows: pd.DataFrame, x: str, y: str, color: str, marker: str, label: str, shape: str | None, shape_kind: str) -> None:
    options: dict[str, Any] = {"s": 14, "alpha": 0.75, "linewidths": 0.6, "rasterized": len(rows) > 1500, "color": color}
    if shape is None:
        ax.scatter(rows[x], rows[y], marker=marker, label=label, **options)
        return
    for name, part in rows.groupby(shape, sort=False):
        ax.scatter(part[x], part[y], marker=style_of(shape_kind, str(name)).marker, **options)
    ax.scatter([], [], marker="s", label=label, **{**options, "s": 26})


def _shapes(ax: Axes, groups: list[tuple[pd.DataFrame, Style]]) -> None:
    """Legend entries for the markers, in grey: colours are explained by their own entries."""
    for _, look in groups:
        ax.scatter([], [], s=18, color="#777777", marker=look.marker, label=look.label, gid=SHAPE_ONLY)


def _line(ax: Axes, boundary: tuple[float, float, float], label: str) -> None:
    a, b, c = boundary
    xs, ys = np.array(ax.get_xlim()), np.array(ax.get_ylim())
    options: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": "--", "label": label, "zorder": 4}
    if abs(b) * np.ptp(ys) >= abs(a) * np.ptp(xs):
        ax.plot(xs, -(a * xs + c) / b, **options)
    elif a:
        ax.plot(-(b * ys + c) / a, ys, **options)
    ax.set_xlim(*xs)
    ax.set_ylim(*ys)
