"""What a figure shows, as numbers and words: for tests that compare a drawing with the table it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure


def axes_of(figures: Mapping[str, Figure] | Figure) -> list[Axes]:
    """Every axes of one figure or of several."""
    return [ax for figure in (figures.values() if isinstance(figures, Mapping) else [figures]) for ax in figure.axes]


def numbers(ax: Axes) -> np.ndarray:
    """Every finite number that is drawn in the axes: coordinates of lines, points, bars and bands, and values behind colours [n]."""
    found = np.concatenate([np.zeros(0), *(np.ma.filled(np.ma.asarray(x, dtype=float), np.nan).ravel() for x in _parts(ax))])
    return found[np.isfinite(found)]


def _parts(ax: Axes) -> Iterator[Any]:
    for line in ax.lines:
        yield from (np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float))
    for collection in ax.collections:
        if isinstance(collection, LineCollection):
            yield from collection.get_segments()
        elif not isinstance(collection, QuadMesh):
            yield collection.get_offsets()
            yield from (path.vertices for path in collection.get_paths())
        if collection.get_array() is not None:
            yield collection.get_array()
    for patch in ax.patches:
        yield patch.get_path().vertices if not hasattr(patch, "get_bbox") else patch.get_bbox().get_points()
    for image in ax.images:
        yield image.get_array()


def words(ax: Axes) -> list[str]:
    """Every text inside the axes."""
    return [text.get_text() for text in ax.texts]


def shows(ax: Axes, values: Any) -> bool:
    """Whether all these numbers (NaN apart) are drawn in the axes, to a millionth."""
    wanted, drawn = np.asarray(values, dtype=float).ravel(), np.sort(numbers(ax))
    wanted = wanted[np.isfinite(wanted)]
    if not len(drawn):
        return not len(wanted)
    place = np.clip(np.searchsorted(drawn, wanted), 1, len(drawn) - 1) if len(drawn) > 1 else np.zeros(len(wanted), dtype=int)
    nearest = np.minimum(np.abs(drawn[place] - wanted), np.abs(drawn[np.maximum(place - 1, 0)] - wanted))
    return bool((nearest <= 1e-6 * np.maximum(1, np.abs(wanted))).all())


def assert_shown(figures: Mapping[str, Figure] | Figure, rows: pd.DataFrame, *columns: str, of: str = "") -> None:
    """Some axes draw all of these columns of these rows; and none does once the numbers are others, so that the check can fail."""
    assert len(rows), f"no rows to be drawn{of and f' of {of}'}"
    values = rows[list(columns)].to_numpy(dtype=float)
    assert any(shows(ax, values) for ax in axes_of(figures)), f"{columns} of {len(rows)} rows{of and f' of {of}'} are drawn in no axes"
    assert not any(shows(ax, values * 0.98713 + 0.00071) for ax in axes_of(figures)), "anything would pass"


def perturbed(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables with other estimates (all other numbers with a fraction where a table has none): every panel must look different."""
    made = {}
    for name, table in tables.items():
        floats = [c for c in table.columns if pd.api.types.is_float_dtype(table[c])]
        columns = [c for c in ("value", "low", "high") if c in table and pd.api.types.is_numeric_dtype(table[c])] or floats
        made[name] = table.assign(**{c: table[c] * 0.9 + 0.003 for c in columns})
    return made


def panels_that_ignore(figures: Mapping[str, Figure] | Figure, others: Mapping[str, Figure] | Figure) -> list[str]:
    """Titles of the panels that draw the same numbers in both, although they were drawn from other tables; legends and the like apart."""
    pairs = zip(axes_of(figures), axes_of(others), strict=True)
    drawing = [(i, ax, other) for i, (ax, other) in enumerate(pairs) if ax.axison and ax.get_label() != "<colorbar>" and len(numbers(ax))]
    return [ax.get_title() or str(i) for i, ax, other in drawing if np.array_equal(np.sort(numbers(ax)), np.sort(numbers(other)))]
