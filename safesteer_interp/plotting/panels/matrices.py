"""Matrices: layer by step, and trained on by tested on. Numbers stand in the cells wherever they fit."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize, TwoSlopeNorm, to_rgba
from matplotlib.patches import Rectangle

from safesteer_interp.plotting.palette import DIVERGING, ENTITIES, INK, MUTED, SEQUENTIAL
from safesteer_interp.plotting.panels.shared import legend_below, need
from safesteer_interp.plotting.style import in_column

LINE, AROUND = 0.125, 0.62
"""Inches that the name of a row takes in a column, and what title, ticks and label of a panel take."""

UNPLACED = "white: 95 % interval wider than {:g}"
"""What a legend says of cells that the data cannot place."""


def layer_step_heatmap(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str = "step",
    y: str = "layer",
    value: str = "value",
    low: str = "low",
    high: str = "high",
    label: str = "AUROC",
    center: float | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    xlabel: str = "decoding step",
    ylabel: str = "decoder layer",
    colorbar: bool = True,
) -> None:
    """A measure over layers and steps; cells whose interval reaches across `center` are hatched, missing ones stay white.

    So do cells that the data cannot place: their interval is wider than the whole range from `vmin` to `vmax`; the legend says so.
    Raises ValueError for a missing column or an empty table.
    """
    need(table, [x, y, value, low, high], "layer_step_heatmap")
    values, columns, rows = _grid(table, x, y, value)
    lows, highs = _grid(table, x, y, low)[0], _grid(table, x, y, high)[0]
    if vmin is not None and vmax is not None:
        unplaced = highs - lows > vmax - vmin
        values, lows = np.where(unplaced, np.nan, values), np.where(unplaced, np.nan, lows)
        if unplaced.any():
            ax.scatter([], [], marker="s", s=30, facecolor="white", edgecolor=MUTED, linewidth=0.7, label=UNPLACED.format(vmax - vmin))
            legend_below(ax)
    mesh = ax.imshow(values, **_colors(values, center, vmin, vmax), aspect="auto", origin="lower")
    if center is not None:
        for i, j in zip(*np.nonzero((lows <= center) & (highs >= center)), strict=True):
            ax.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, hatch="////", edgecolor="#9a9a9a", linewidth=0))
    _tick_names(ax, columns, rows)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(visible=False)
    if colorbar:
        bar = ax.figure.colorbar(mesh, ax=ax, label=label, fraction=0.05, pad=0.02)
        known = values[np.isfinite(values)]
        if center is not None and known.size:
            # The colours are symmetric about the centre; the bar shows only the part that occurs.
            ends = [known.min() if vmin is None else vmin, known.max() if vmax is None else vmax]
            bar.ax.set_ylim(min([*ends, center]), max([*ends, center]))


def transfer_matrix(
    ax: Axes,
    table: pd.DataFrame,
    *,
    row: str = "trained_on",
    column: str = "tested_on",
    value: str = "value",
    low: str = "low",
    high: str = "high",
    label: str = "AUROC",
    vmin: float = 0.5,
    vmax: float = 1.0,
    xlabel: str = "tested on",
    ylabel: str = "trained on",
    digits: int = 2,
    colorbar: bool = True,
) -> None:
    """Rows trained on, columns tested on; each cell holds the value and, below it, its interval; the diagonal is framed.

    More cells than three abreast are too narrow for intervals in a column; the table beside the figure has them.
    Raises ValueError for a missing column or an empty table.
    """
    need(table, [row, column, value, low, high], "transfer_matrix")
    values, columns, rows = _grid(table, column, row, value, order="attack")
    lows = _grid(table, column, row, low, order="attack")[0]
    highs = _grid(table, column, row, high, order="attack")[0]
    bounded = not (in_column() and len(columns) > 3)
    paint = _colors(values, None, vmin, vmax)
    mesh = ax.imshow(values, **paint, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if np.isnan(values[i, j]):
            continue
        ink = _ink(paint["cmap"], paint["norm"], float(values[i, j]))
        ax.text(j, i - 0.1 * bounded, f"{values[i, j]:.{digits}f}", ha="center", va="center", color=ink, fontsize=8)
        if bounded:
            bounds = "n/a" if np.isnan(lows[i, j]) else f"{lows[i, j]:.{digits}f}–{highs[i, j]:.{digits}f}"
            ax.text(j, i + 0.22, bounds, ha="center", va="center", color=ink, fontsize=6.5)
        if rows[i] == columns[j]:
            ax.add_patch(Rectangle((j - 0.47, i - 0.47), 0.94, 0.94, fill=False, edgecolor=ink, linewidth=1.0))
    _tick_names(ax, columns, rows)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(visible=False)
    if colorbar:
        ax.figure.colorbar(mesh, ax=ax, label=label, fraction=0.05, pad=0.02)


def _grid(table: pd.DataFrame, x: str, y: str, value: str, order: str | None = None) -> tuple[np.ndarray, list[str], list[str]]:
    """[rows, columns] values with the names of columns and rows; numbers ascend, entities keep the palette's order."""
    columns, rows = _sorted(table[x], order), _sorted(table[y], order)
    out = np.full((len(rows), len(columns)), np.nan)
    for a, b, v in zip(table[x].astype(str), table[y].astype(str), table[value], strict=True):
        out[rows.index(b), columns.index(a)] = float(v)
    return out, columns, rows


def _sorted(values: pd.Series, order: str | None) -> list[str]:
    unique = list(dict.fromkeys(values))
    if pd.api.types.is_numeric_dtype(values):
        return [str(v) for v in sorted(unique)]
    rank = {name: i for i, name in enumerate(ENTITIES.get(order or "", {}))}
    return sorted(map(str, unique), key=lambda name: rank.get(name, len(rank)))


def _colors(values: np.ndarray, center: float | None, vmin: float | None, vmax: float | None) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    low = float(known.min()) if vmin is None and known.size else (0.0 if vmin is None else vmin)
    high = float(known.max()) if vmax is None and known.size else (1.0 if vmax is None else vmax)
    if center is None:
        return {"cmap": mpl.colormaps[SEQUENTIAL], "norm": Normalize(low, max(high, low + 1e-9))}
    reach = max(abs(high - center), abs(center - low), 1e-9)
    return {"cmap": mpl.colormaps[DIVERGING], "norm": TwoSlopeNorm(center, center - reach, center + reach)}


def _ink(colors: Colormap, norm: Normalize, value: float) -> str:
    """Black or white, whichever is read more easily on the cell."""
    red, green, blue, _ = to_rgba(colors(float(norm(value))))
    return "#ffffff" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5 else INK


def _tick_names(ax: Axes, columns: list[str], rows: list[str]) -> None:
    """Names of columns and rows, every so many where there are too many; in a column's width those of columns break at underscores."""
    narrow = in_column() and len(columns) > 3
    across = [name.replace("_", "\n") for name in columns] if narrow else columns
    named = not all(row.isdigit() or row in ("embed", "final_norm") for row in rows)
    if in_column() and named and len(rows) <= 14:
        _grow(ax, LINE * len(rows) + AROUND)
    rows = [row.replace("final_norm", "final norm") for row in rows]
    for names, put, most in ((across, ax.set_xticks, 14), (rows, ax.set_yticks, 7 if in_column() and not named else 14)):
        every = max(1, int(np.ceil(len(names) / most)))
        put(range(0, len(names), every), names[::every])
    if max(map(len, columns)) > 7 and not narrow:
        ax.tick_params(axis="x", labelrotation=30)
        for text in ax.get_xticklabels():
            text.set_horizontalalignment("right")
    ax.tick_params(length=0)


def _grow(ax: Axes, needed: float) -> None:
    """Makes a figure of one column tall enough for its panels to have the height that their row names need, in inches."""
    figure = ax.get_figure(root=True)
    if figure is not None:
        panels = sum(other.get_label() != "<colorbar>" for other in figure.axes)
        figure.set_figheight(max(figure.get_figheight(), needed * panels))
