"""Figure sizes and the style sheet.

A figure is drawn at the size it is printed at and never scaled: as wide as a page's text, or as one column of a two-column paper, where
the same panels stand below one another. One `draw` serves both: it asks `new_figure` for its panels and need not know which is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.resources import as_file, files
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator

Size = Literal["page", "column"]
WIDTHS = {"full": 7.0, "column": 3.4}
"""Inches: the text width and one column of a two-column page."""
SMALLEST = 6.5
"""Points: no text of a figure is smaller."""
TALLEST, LOWEST = 9.2, 1.25
"""Inches: what a figure of one column should not exceed, and what each of its panels gets all the same."""
_LEFT = "_safesteer_left"
"""Where a panel of a column keeps the panel that a page has on its left."""
_SIZE: ContextVar[Size] = ContextVar("size of figures", default="page")


@contextmanager
def style(size: Size = "page") -> Iterator[None]:
    """matplotlib with the suite's style sheet and without a display, and figures of one size; what was set before comes back."""
    before = _SIZE.set(size)
    try:
        with as_file(files("safesteer_interp.plotting") / "safesteer.mplstyle") as sheet, mpl.rc_context():
            plt.switch_backend("agg")
            plt.style.use(["default", str(sheet)])
            yield
    finally:
        _SIZE.reset(before)


def use_style(*, dpi: float = 120) -> None:
    """The suite's style sheet for the rest of a session, as a notebook wants it; the display stays the notebook's own.

    At 120 pixels an inch a figure of a page's width is 840 pixels wide.
    """
    with as_file(files("safesteer_interp.plotting") / "safesteer.mplstyle") as sheet:
        plt.style.use(str(sheet))
    mpl.rcParams["figure.dpi"] = dpi


def in_column() -> bool:
    """True while figures are drawn for one column."""
    return _SIZE.get() == "column"


def new_figure(
    rows: int = 1,
    cols: int = 1,
    *,
    width: Literal["full", "column"] = "full",
    height: float = 3.0,
    lowest: float = LOWEST,
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure of a standard width (inches: full 7.0, column 3.4) and its axes, as `plt.subplots` returns them.

    While figures are drawn for a column the panels of a full one stand below one another, in reading order; the array of axes has the
    same shape; a panel gets at least `lowest` inches there. The figure is not registered with pyplot, so it is freed when the caller lets
    go of it.
    """
    spacing = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05, wspace=0.04, hspace=0.06)
    if width == "full" and in_column():
        return _stacked(rows, cols, height, lowest, spacing, options)
    figure = Figure(figsize=(WIDTHS[width], height), layout=spacing)
    return figure, figure.subplots(rows, cols, **options)


def _stacked(
    rows: int, cols: int, height: float, lowest: float, spacing: ConstrainedLayoutEngine, options: dict[str, Any]
) -> tuple[Figure, Any]:
    """The panels of a page's figure in one column, each about as high as on the page."""
    shares = np.repeat(np.asarray(options.get("height_ratios") or [1.0] * rows, dtype=float), cols)
    panel = max(lowest, min(height / rows, TALLEST / (rows * cols)))
    figure = Figure(figsize=(WIDTHS["column"], panel * rows * cols), layout=spacing)
    grid = figure.add_gridspec(rows * cols, 1, height_ratios=shares)
    axes = np.empty((rows, cols), dtype=object)
    for place in np.ndindex(rows, cols):
        shared = {f"share{axis}": _partner(axes, place, options.get(f"share{axis}", False)) for axis in "xy"}
        axes[place] = figure.add_subplot(grid[place[0] * cols + place[1]], **shared, **(options.get("subplot_kw") or {}))
        setattr(axes[place], _LEFT, axes[place[0], place[1] - 1] if place[1] else None)
    if not options.get("squeeze", True):
        return figure, axes
    return figure, axes.item() if axes.size == 1 else axes.squeeze()


def _partner(axes: np.ndarray, place: tuple[int, ...], shared: bool | str) -> Any:
    """The axes whose scale a panel shares, as `plt.subplots` understands "all", "row" and "col"; None for the first of a group."""
    if shared in (False, "none"):
        return None
    first = {"row": (place[0], 0), "col": (0, place[1])}.get(str(shared), (0, 0))
    return axes[first] if first != place else None


def label_all(figure: Figure) -> None:
    """Shows the tick labels and the unit of every panel: those that a page leaves to a neighbour have none beside them in a column.

    A panel whose axis has numbers and no label has that of the panel on its left; names of rows need none.
    """
    for ax in figure.axes:
        if ax.get_label() != "<colorbar>":
            ax.tick_params(labelleft=True, labelbottom=True)
            left = getattr(ax, _LEFT, None)
            if left is not None and ax.has_data() and not ax.get_ylabel() and not isinstance(ax.yaxis.get_major_locator(), FixedLocator):
                ax.set_ylabel(left.get_ylabel())
