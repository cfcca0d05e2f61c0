"""Curves with bands: a measure over layers, steps, widths or doses, one line per entity."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from safesteer_interp.plotting.panels.shared import groups_of, legend_below, need, reference_line

CROWDED = 3
"""From so many entities on bands are paler and have an edge each, by which they are told apart where they lie over one another."""


def layer_curve(
    ax: Axes,
    table: pd.DataFrame,
    *,
    x: str = "layer",
    y: str = "value",
    low: str = "low",
    high: str = "high",
    by: str | None = "attack",
    kind: str | None = None,
    xlabel: str = "decoder layer",
    ylabel: str = "",
    reference: float | None = None,
    reference_label: str | None = None,
    legend: bool = True,
    markers: bool = True,
    evenly: bool = False,
    bars: bool = False,
    apart: Collection[str] = (),
) -> None:
    """One line per entity over `x`, with the interval as a band (as bars where an entity has a single point).

    `bars`: intervals as bars, entities side by side, as suits few values of `x` with intervals so wide that bands would cover each other.
    No line leads to the values of `x` named in `apart`: they do not follow on the others.

    Text values of `x` become ticks of their own: "embed" before the numbers, anything else ("final_norm", "all") after them. `evenly`
    sets all values side by side at equal distances, as suits widths of 1, 2, 4, 8, ... Raises ValueError for a missing column or an
    empty table.

    A reference of 0.5 is named "chance" unless it is told otherwise, any other is not named.
    """
    need(table, [x, y, low, high, *([by] if by else [])], "layer_curve")
    places, ticks = _positions(table[x])
    if evenly:
        order = sorted(places, key=lambda name: places[name])
        places, ticks = {name: float(i) for i, name in enumerate(order)}, {float(i): name for i, name in enumerate(order)}
    place = table[x].map(lambda v: places[str(v)])
    groups = groups_of(table.assign(_x=place), by, kind, ax.figure)
    near = float(np.diff(np.unique(place)).min()) if place.nunique() > 1 else 1.0
    for i, (rows, look) in enumerate(groups):
        rows = rows.sort_values("_x")
        at, value = rows["_x"].to_numpy(float), rows[y].to_numpy(float)
        below, above = rows[low].to_numpy(float), rows[high].to_numpy(float)
        options = look.plot()
        alone = rows[x].astype(str).isin(apart).to_numpy() | (len(rows) == 1)
        if bars:
            at = at + (i - (len(groups) - 1) / 2) * min(0.08, 0.5 / len(groups)) * near
        if alone.any():
            only = {**options, "linestyle": "none"} | ({} if alone.all() else {"label": None})
            ax.errorbar(at[alone], value[alone], yerr=_arms(value, below, above)[:, alone], **only)
            at, value, below, above = (values[~alone] for values in (at, value, below, above))
        if alone.all():
            continue
        if bars:
            ax.errorbar(at, value, yerr=_arms(value, below, above), elinewidth=1.0, zorder=3, **options)
            continue
        options["markersize"] = 4 if len(rows) <= 16 else 3
        if not markers:
            options["marker"] = ""
        ax.plot(at, value, markeredgewidth=0.8, zorder=3, **options)
        band: dict[str, Any] = {"facecolor": (look.color, 0.16), "linewidth": 0}
        if len(groups) >= CROWDED:
            band = {"facecolor": (look.color, 0.07), "edgecolor": (look.color, 0.4), "linewidth": 0.4}
        ax.fill_between(at, below, above, zorder=2, **band)
    _ticks(ax, ticks)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    reference_line(ax, reference, ("chance" if reference == 0.5 else "") if reference_label is None else reference_label)
    if legend and by:
        legend_below(ax)


def dose_curve(ax: Axes, table: pd.DataFrame, *, x: str = "dose", xlabel: str = "strength (median residual norms)", **options: Any) -> None:
    """A response over signed doses, as `layer_curve` draws it, with a line at dose 0, where the model is untouched."""
    layer_curve(ax, table, x=x, xlabel=xlabel, **options)
    reference_line(ax, 0.0, "", axis="x")


def _positions(values: pd.Series) -> tuple[dict[str, float], dict[float, str] | None]:
    """Where each x value goes, and tick labels when some are not numbers."""
    unique = list(dict.fromkeys(values))
    numbers = {str(v): float(v) for v in unique if _is_number(v)}
    words = [str(v) for v in unique if str(v) not in numbers]
    if not words:
        return numbers, None
    ordered = sorted(set(numbers.values()))
    gap = float(np.median(np.diff(ordered))) if len(ordered) > 1 else 1.0
    first, last = (ordered[0], ordered[-1]) if ordered else (0.0, -gap)
    before = [w for w in words if w == "embed"]
    after = [w for w in words if w != "embed"]
    places = {**numbers, **{w: first - gap * (len(before) - i) for i, w in enumerate(before)}}
    places |= {w: last + gap * (i + 1) for i, w in enumerate(after)}
    shown = ordered if len(ordered) <= 12 else ordered[:: int(np.ceil(len(ordered) / 8))]
    labels = {v: f"{v:g}" for v in shown}
    return places, labels | {places[w]: w.replace("_", "\n") for w in words}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _ticks(ax: Axes, labels: dict[float, str] | None) -> None:
    if labels is None:
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        return
    at = sorted(labels)
    words = [v for v in at if not _is_number(labels[v])]
    span = (at[-1] - at[0]) or 1.0
    # A number too close to a word would print over it.
    kept = [v for v in at if v in words or all(abs(v - w) > 0.1 * span for w in words)]
    ax.set_xticks(kept, [labels[v] for v in kept])


def _arms(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[2, n] lengths of error bars; 0 where an end is missing."""
    return np.nan_to_num(np.clip(np.stack([value - low, high - value]), 0, None))
