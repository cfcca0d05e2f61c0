"""Words that do not fit are broken into lines; none leaves its figure, whatever its width."""

from __future__ import annotations

import itertools
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from safesteer_interp.plotting import new_figure, panels, save_figure, style
from safesteer_interp.plotting.fit import break_lines, fit_words
from safesteer_interp.plotting.style import label_all
from safesteer_interp.plotting.ticks import GAP, OVERLAP, TURN

LONG = "refuses the harmful requests, and not the harmless ones beside them"


@pytest.mark.parametrize(
    ("words", "most", "lines"),
    [
        ("bag of all words", 30, ["bag of all words"]),
        ("bag of all words, image included", 20, ["bag of all words,", "image included"]),
        ("one two three four", 9, ["one two", "three", "four"]),
        ("unbreakable", 4, ["unbreakable"]),
    ],
)
def test_lines_are_as_few_as_can_be_and_no_word_is_cut(words: str, most: int, lines: list[str]) -> None:
    assert break_lines(words, most).split("\n") == lines


@pytest.mark.parametrize("size", ["page", "column"])
def test_no_word_leaves_the_figure_or_meets_the_next_title(size: str, tmp_path: Path) -> None:
    rows = pd.DataFrame([{"label": name, "value": 0.5, "low": 0.4, "high": 0.6} for name in ("all words, image included", "CB")])
    with style(size):  # type: ignore[arg-type]
        figure, axes = new_figure(1, 2, height=4.0)
        for ax in axes:
            panels.forest(ax, rows, xlabel=LONG)
            ax.set_title(LONG)
            ax.set_ylabel("share")
        save_figure(figure, tmp_path, formats=("svg",))
        figure.draw_without_rendering()
        assert _title(axes[0]).get_window_extent().x1 < figure.bbox.x1
        boxes = [text.get_window_extent() for ax in axes for text in (_title(ax), ax.xaxis.label, *ax.get_yticklabels())]
        assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes)
        if size == "page":
            assert _title(axes[0]).get_window_extent().x1 < _title(axes[1]).get_window_extent().x0
        assert ("\n" in axes[0].get_yticklabels()[0].get_text()) == (size == "column"), "rows are named in one line where there is room"
        assert axes[0].get_ylabel() == "share", "what fits is left alone"


def _title(ax: object) -> object:
    return next(text for text in ax.get_children() if getattr(text, "get_text", str)() == ax.get_title(loc="left"))  # type: ignore[attr-defined]


def test_a_legend_of_long_names_has_the_columns_that_fit(tmp_path: Path) -> None:
    with style("column"):
        figure, ax = new_figure(height=2.0)
        for name in ("LLaVA-1.5-7B", "Qwen2.5-VL-7B", "Qwen3-VL-8B"):
            ax.scatter([0], [0], label=name)
        panels.legend_below(figure)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def _shown(axis: Axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels() if label.get_text()]


def _laid_out(figure: Figure) -> None:
    figure.draw_without_rendering()
    while fit_words(figure):
        figure.draw_without_rendering()


def _narrow(width: float, height: float = 2.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def test_a_number_that_touches_a_name_or_another_number_is_left_out_and_its_tick_stays() -> None:
    with style():
        figure, ax = _narrow(1.3)
        ax.set_xticks(range(10), [*map(str, range(1, 10)), "last"])
        _laid_out(figure)
        assert _shown(ax.xaxis)[-1] == "last" and "9" not in _shown(ax.xaxis)
        assert len(ax.get_xticks()) == 10
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert all(b.x0 - a.x1 >= GAP * figure.dpi / 72 for a, b in itertools.pairwise(boxes))


def test_a_scale_of_numbers_gets_fewer_ticks_and_what_fits_is_left_alone() -> None:
    with style():
        figure, ax = _narrow(0.9)
        ax.set_xlim(0, 0.16)
        ax.xaxis.set_major_locator(MaxNLocator(8))
        figure.draw_without_rendering()
        before = len(_shown(ax.xaxis))
        _laid_out(figure)
        assert 2 <= len(_shown(ax.xaxis)) < before
        wide, other = _narrow(6.0)
        other.set_xticks(range(3), ["1", "2", "last"])
        wide.draw_without_rendering()
        assert not fit_words(wide) and _shown(other.xaxis) == ["1", "2", "last"]


def test_names_of_columns_are_turned_and_rows_get_the_height_their_names_need() -> None:
    with style():
        figure, ax = _narrow(1.4)
        ax.set_xticks(range(4), ["harmless", "harmful", "degenerate", "refusal"])
        _laid_out(figure)
        assert [label.get_rotation() for label in ax.get_xticklabels()] == [TURN] * 4
        figure, ax = _narrow(3.0, 1.0)
        ax.set_yticks(range(12), [f"row {chr(97 + i)}" for i in range(12)])
        _laid_out(figure)
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert figure.get_figheight() > 1.0 and len(_shown(ax.yaxis)) == 12
        assert all(b.y0 - a.y0 > (1 - OVERLAP) * a.height - 1 for a, b in itertools.pairwise(boxes))


def test_a_panel_of_a_column_has_the_unit_that_a_page_writes_left_of_it() -> None:
    rows = pd.DataFrame([{"attack": "CB", "layer": x, "value": 0.5, "low": 0.4, "high": 0.6} for x in range(3)])
    with style("column"):
        figure, axes = new_figure(1, 3, height=4.0)
        for ax, unit in zip(axes, ("AUROC", "", "nats"), strict=True):
            panels.layer_curve(ax, rows, ylabel=unit)
        label_all(figure)
        assert [ax.get_ylabel() for ax in axes] == ["AUROC", "AUROC", "nats"]
        figure, axes = new_figure(1, 2, height=4.0)
        axes[0].set_ylabel("share")
        panels.forest(axes[1], rows.assign(label=rows["layer"].map(lambda x: f"row {x}")))
        label_all(figure)
        assert axes[1].get_ylabel() == "", "rows have names and no unit"
