"""Figure sizes and the style sheet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

WIDTHS = {"full": 7.0, "column": 3.4}
"""Inches: the text width and one column of a two-column page."""


@contextmanager
def style() -> Iterator[None]:
    """matplotlib with the suite's style sheet and without a display; the settings before it come back afterwards."""
    with as_file(files("safesteer_interp.plotting") / "safesteer.mplstyle") as sheet, mpl.rc_context():
        plt.switch_backend("agg")
        plt.style.use(["default", str(sheet)])
        yield


def new_figure(
    rows: int = 1, cols: int = 1, *, width: Literal["full", "column"] = "full", height: float = 3.0, **options: Any
) -> tuple[Figure, Any]:
    """A figure of a standard width (inches: full 7.0, column 3.4) and its axes, as `plt.subplots` returns them.

    It is not registered with pyplot, so it is freed when the caller lets go of it.
    """
    spacing = ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05, wspace=0.04, hspace=0.06)
    figure = Figure(figsize=(WIDTHS[width], height), layout=spacing)
    return figure, figure.subplots(rows, cols, **options)
