"""What several panels need: the kind of an entity column, columns that must be there, legends that cover no data."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba_array
from matplotlib.figure import FigureBase

from safesteer_interp.plotting.palette import ENTITIES, Style, is_known, styles_of
from safesteer_interp.plotting.style import in_column

_LEGEND, _GROWN, _SERIES = "legend-below", "_safesteer_grown", "_safesteer_series"
LEGEND_ROW = 0.155
"""Inches that one row of a legend takes."""
LETTER, HANDLE = 0.055, 0.56
"""Inches that a letter of a legend takes, and what stands before its words and between two columns."""
SHAPE_ONLY = "shape-only"
"""Mark of a legend entry that explains a marker but no colour; one that explains both takes its place."""
_KIND_OF_COLUMN = {"harmful": "class", "label": "class", "trained_on": "attack", "tested_on": "attack", "condition": "modality"}


def kind_of(by: str, kind: str | None) -> str:
    """The palette kind of a column: as given, else the column's own name if it is one, else "series"."""
    if kind is not None:
        return kind
    return by if by in ENTITIES else _KIND_OF_COLUMN.get(by, "series")


def need(table: pd.DataFrame, columns: Iterable[str], panel: str) -> None:
    """Raises ValueError, naming them, when columns are missing or the table is empty."""
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise ValueError(f"{panel} needs the columns {missing}; the table has {list(table.columns)}.")
    if table.empty:
        raise ValueError(f"{panel} got an empty table.")


def groups_of(table: pd.DataFrame, by: str | None, kind: str | None, owner: FigureBase | None = None) -> list[tuple[pd.DataFrame, Style]]:
    """The rows of each entity with its style: entities of the palette in its order, others as they come, controls last.

    `owner` is the figure that is drawn on: a name without a fixed look keeps the one it has in other panels, and takes no colour that
    means something else there, for all share one legend.
    """
    if by is None:
        return [(table, styles_of("series", [""])[""])]
    chosen = kind_of(by, kind)
    present = list(dict.fromkeys(map(str, table[by])))
    known, controls = list(ENTITIES.get(chosen, {})), list(ENTITIES["control"])
    present.sort(key=lambda name: known.index(name) if name in known else 200 + controls.index(name) if name in controls else 100)
    looks = _looks(chosen, present, owner)
    names = table[by].astype(str)
    return [(table[names == name], looks[name]) for name in present]


def _looks(kind: str, names: list[str], owner: FigureBase | None) -> dict[str, Style]:
    """Styles of the names, and those without a fixed one kept with the figure."""
    figure = None if owner is None else owner.get_figure(root=True)
    kept: dict[tuple[str, str], Style] = getattr(figure, _SERIES, {})
    new = [n for n in names if (kind, n) not in kept]
    found = styles_of(kind, new, taken=_colors_in(figure), first=len(kept))
    if figure is not None:
        setattr(figure, _SERIES, kept | {(kind, n): look for n, look in found.items() if not is_known(kind, n)})
    return {n: kept[kind, n] if (kind, n) in kept else found[n] for n in names}


def _colors_in(figure: Any) -> set[str]:
    """The colours of what the legends of a figure name, as hex."""
    found = set()
    for ax in [] if figure is None else figure.axes:
        for handle in ax.get_legend_handles_labels()[0]:
            part = handle[0] if isinstance(handle, tuple) else handle
            color = part.get_color() if hasattr(part, "get_color") else part.get_facecolor()
            found |= {to_hex(one) for one in to_rgba_array(color)}
    return found


def class_names(values: Iterable[Any]) -> list[str]:
    """Booleans as "harmful" and "harmless", anything else as text."""
    return [("harmful" if v else "harmless") if isinstance(v, bool | np.bool_) else str(v) for v in values]


def reference_line(ax: Axes, at: float | None, label: str, *, axis: str = "y") -> None:
    """A thin dashed line at a reference value, named where it ends: right of the axes, where it covers no curve."""
    if at is None:
        return
    line: dict[str, Any] = {"color": "#8c8c8c", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
    if axis == "y":
        ax.axhline(at, **line)
        if label:
            ax.annotate(label, (1, at), xycoords=("axes fraction", "data"), xytext=(3, 0), textcoords="offset points",
                        ha="left", va="center", rotation=90, fontsize=6.5, color="#6b6b6b", annotation_clip=False)  # fmt: skip
    else:
        ax.axvline(at, **line)
        if label:
            ax.annotate(label, (at, 1), xycoords=("data", "axes fraction"), xytext=(2, -2), textcoords="offset points",
                        ha="left", va="top", fontsize=7, color="#6b6b6b", zorder=5,
                        bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 0.6})  # fmt: skip


def reference_band(ax: Axes, low: float, high: float, label: str, *, axis: str = "y") -> None:
    """A grey band that a null reaches (what is found where there is nothing), named in the legend."""
    span = ax.axhspan if axis == "y" else ax.axvspan
    span(low, high, color="#b0b0b0", alpha=0.28, linewidth=0, zorder=0, label=label)


def legend_below(owner: Axes | FigureBase, *, columns: int = 4) -> None:
    """The one legend of a figure, below all its axes where it covers no data; each label once. Called again, it replaces itself.

    In a column a figure grows by what its legend needs, so that the panels keep their height.
    """
    figure = owner.get_figure(root=True)
    if figure is None:
        return
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            if label and not label.startswith("_") and _is_only_shape(entries.get(label)):
                entries[label] = handle
    grown = 0.0
    for old in [legend for legend in figure.legends if legend.get_gid() == _LEGEND]:
        grown += getattr(old, _GROWN, 0.0)
        old.remove()
    for ax in figure.axes:  # what stands below stands nowhere else
        if (own := ax.get_legend()) is not None and {text.get_text() for text in own.get_texts()} <= set(entries):
            own.remove()
    if entries:
        fitting = _columns(list(entries), figure.get_figwidth(), columns)
        legend = figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=fitting)
        legend.set_gid(_LEGEND)
        wanted = LEGEND_ROW * -(-len(entries) // fitting) if in_column() else 0.0
        setattr(legend, _GROWN, wanted)
        figure.set_figheight(figure.get_figheight() + wanted - grown)


def _columns(labels: list[str], width: float, most: int) -> int:
    """How many columns of a legend fit a width (inches), filled from top to bottom as matplotlib fills them."""
    for count in range(min(most, len(labels)), 1, -1):
        each, more = divmod(len(labels), count)
        starts = np.cumsum([0, *(each + (i < more) for i in range(count))])
        longest = [max(map(len, labels[a:b])) for a, b in itertools.pairwise(starts)]
        if sum(LETTER * n + HANDLE for n in longest) <= width:
            return count
    return 1


def lift_legend(figure: Any, share: float | None) -> None:
    """Moves the legend of a laid-out figure up by a share of its height, off what is written at its foot; None puts it back.

    Only after the layout: the layout keeps room for a legend that has no place of its own, and for no other.
    """
    for legend in figure.legends:
        if legend.get_gid() == _LEGEND:
            legend.set_bbox_to_anchor(None if share is None else (0, share, 1, 1 - share), transform=figure.transFigure)


def _is_only_shape(handle: Any) -> bool:
    return handle is None or (hasattr(handle, "get_gid") and handle.get_gid() == SHAPE_ONLY)
