"""Words that do not fit are broken into lines; none leaves its figure, whatever its width."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from safesteer_interp.plotting import new_figure, panels, save_figure, style
from safesteer_interp.plotting.fit import break_lines

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
