"""Figures in which much lies close together: no point is hidden, bands are told apart, one colour means one thing in a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from safesteer_interp.plotting import new_figure, panels, style
from safesteer_interp.plotting.palette import ENTITIES, styles_of
from safesteer_interp.plotting.panels.matrices import UNPLACED


def band(**keys: Any) -> dict[str, Any]:
    return {**keys, "low": keys["value"] - 0.05, "high": keys["value"] + 0.05}


def plane(*points: tuple[str, float, float], reach: float = 0.02) -> pd.DataFrame:
    rows = []
    for method, x, y in points:
        ends = {f"{axis}_{end}": at + by for axis, at in (("rr", x), ("asr", y)) for end, by in (("low", -reach), ("high", reach))}
        rows.append({"method": method, "rr": x, "asr": y, **ends})
    return pd.DataFrame(rows)


def drawn_points(ax: Axes) -> list[PathCollection]:
    return [points for points in ax.collections if isinstance(points, PathCollection) and len(np.asarray(points.get_offsets()))]


def test_a_plane_shows_what_there_is_with_a_margin() -> None:
    with style():
        _, ax = new_figure()
        panels.tradeoff_plane(ax, plane(("none", 0.07, 0.65), ("safesteer", 0.2, 0.44)), x="rr", y="asr")
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert 0.03 < left < 0.05 and 0.22 < right < 0.24, "the outermost interval and a margin of 6 %"
    assert 0.40 < bottom < 0.42 and 0.67 < top < 0.69


def test_points_on_one_spot_are_open_markers_around_one_another() -> None:
    table = plane(("none", 0.1, 0.9), ("safesteer", 0.1, 0.9), ("coca", 0.1, 0.9), ("ecso", 0.5, 0.2))
    with style():
        figure, ax = new_figure()
        panels.tradeoff_plane(ax, table, x="rr", y="asr")
    together = [points for points in drawn_points(ax) if tuple(np.asarray(points.get_offsets())[0]) == (0.1, 0.9)]
    assert [len(points.get_facecolor()) for points in together] == [1, 0, 0], "the first is filled, the others are open"
    sizes = [float(points.get_sizes()[0]) for points in together]
    assert sizes == sorted(sizes) and sizes[1] > 1.5 * sizes[0]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"no defense", "SafeSteer", "CoCA", "ECSO"} <= set(named)
    alone = next(points for points in drawn_points(ax) if tuple(np.asarray(points.get_offsets())[0]) == (0.5, 0.2))
    assert len(alone.get_facecolor()) == 1


def test_the_arrow_of_what_is_better_stands_where_no_point_is() -> None:
    with style():
        _, ax = new_figure()
        panels.tradeoff_plane(ax, plane(("none", 0.0, 0.0), ("ecso", 0.4, 0.4), ("coca", 1.0, 0.5)), x="rr", y="asr")
    arrow = next(text for text in ax.texts if text.get_text() == "better")
    assert arrow.xy != (0.02, 0.02) and arrow.xy[0] < arrow.get_position()[0] and arrow.xy[1] < arrow.get_position()[1]


def test_bars_stand_side_by_side_and_bands_of_many_are_pale_with_an_edge() -> None:
    rows = pd.DataFrame([band(fit=f, step=x, value=0.6) for f in ("prompt", "token", "contrastive") for x in range(3)])
    with style():
        _, (left, right) = new_figure(1, 2)
        panels.layer_curve(left, rows, x="step", by="fit", kind="fit", bars=True)
        panels.layer_curve(right, rows, x="step", by="fit", kind="fit")
    places = [bars[0].get_xdata() for bars in left.containers]
    assert len(places) == 3 and len({round(float(at[1]), 6) for at in places}) == 3
    assert max(abs(at - np.arange(3)).max() for at in places) < 0.3
    assert [float(area.get_facecolor()[0][3]) for area in right.collections] == pytest.approx([0.07] * 3)
    assert all(area.get_linewidth()[0] > 0 for area in right.collections)


def test_no_line_leads_to_what_stands_apart() -> None:
    steps = [*map(str, range(1, 10)), "last"]
    rows = pd.DataFrame([band(fit="prompt", step=x, value=0.5) for x in steps])
    with style():
        figure, ax = new_figure()
        panels.layer_curve(ax, rows, x="step", by="fit", kind="fit", apart=("last",))
    line = next(line for line in ax.lines if line.get_linestyle() == "-")
    np.testing.assert_array_equal(line.get_xdata(), range(1, 10))
    assert [float(bars[0].get_xdata()[0]) for bars in ax.containers] == [10.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["probe fitted on prompts"]


def test_names_without_a_look_of_their_own_keep_one_in_a_figure_and_share_no_colour() -> None:
    def curve(*names: str) -> pd.DataFrame:
        return pd.DataFrame([band(of=name, layer=x, value=0.5) for name in names for x in range(3)])

    with style():
        _, axes = new_figure(1, 3)
        axes[0].scatter([0], [0], color="#0072B2", label="head")
        panels.layer_curve(axes[1], curve("exact", "gradient"), by="of", kind="series")
        panels.layer_curve(axes[2], curve("gradient", "whole", "random circuits"), by="of", kind="series")
    looks: dict[str, set[tuple[str, str]]] = {}
    for ax in axes[1:]:
        for line in ax.lines:
            looks.setdefault(str(line.get_label()), set()).add((to_hex(line.get_color()), str(line.get_marker())))
    assert set(looks) == {"exact", "gradient", "whole", "control: random circuits"}
    assert all(len(found) == 1 for found in looks.values())
    colors, markers = zip(*(next(iter(found)) for found in looks.values()), strict=True)
    assert len({*colors, "#0072b2"}) == 5 and len(set(markers)) == 4
    assert next(iter(looks["control: random circuits"]))[0] == ENTITIES["control"]["random_circuits"].color
    assert styles_of("series", ["a"])["a"].color == "#0072B2", "another figure begins anew"


def test_cells_that_the_data_cannot_place_are_named_in_the_legend() -> None:
    rows = pd.DataFrame({"step": [0, 0, 1, 1], "layer": [0, 1, 0, 1], "value": 0.1, "low": -0.1, "high": [3.0, 0.1, 0.1, 0.1]})
    with style():
        figure, (left, _) = new_figure(1, 2)
        panels.layer_step_heatmap(left, rows, vmin=-1.0, vmax=1.0)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [UNPLACED.format(2.0)]
        other, ax = new_figure()
        panels.layer_step_heatmap(ax, rows[rows["high"] < 1], vmin=-1.0, vmax=1.0)
    assert not other.legends
