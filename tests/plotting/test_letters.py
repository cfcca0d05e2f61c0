"""Names in figures are drawn as they stand: no formulas, no boxes, and no word on stderr."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from safesteer_interp.fonts import font_with, shipped
from safesteer_interp.plotting import new_figure, panels, save_figure, style
from safesteer_interp.plotting.letters import spelled
from safesteer_interp.plotting.panels.strips import visible

NAMES = ("$5 scam for $9", "a$^$b", "$$", "50% & more_or less", "\\frac{", "数据集", "_private", "\U0001f35e", "tab\tand\abell")


def curve(name: str) -> Figure:
    figure, ax = new_figure()
    rows = [{"layer": i, "value": 0.5, "low": 0.4, "high": 0.6, "scenario": name} for i in range(3)]
    panels.layer_curve(ax, pd.DataFrame(rows), by="scenario")
    return figure


def forest(name: str) -> Figure:
    figure, ax = new_figure()
    panels.forest(ax, pd.DataFrame({"label": [name, "other"], "value": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]}))
    return figure


def matrix(name: str) -> Figure:
    figure, ax = new_figure()
    pairs = [(a, b) for a in (name, "b") for b in (name, "b")]
    table = pd.DataFrame([{"trained_on": a, "tested_on": b, "value": 0.6, "low": 0.5, "high": 0.7} for a, b in pairs])
    panels.transfer_matrix(ax, table)
    return figure


def strip(name: str) -> Figure:
    figure, ax = new_figure()
    panels.token_strip(ax, pd.DataFrame({"token": [name, "x"], "score": [0.2, 0.9]}))
    return figure


def shown(figure: Figure) -> list[str]:
    ticks = [label.get_text() for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [*ticks, *legends, *(text.get_text() for ax in figure.axes for text in ax.texts)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [curve, forest, matrix, strip])
def test_names_are_drawn_as_they_stand(make: Callable[[str], Figure], name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with style(), warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = make(name)
        save_figure(figure, tmp_path)
    expected = visible(name) if make is strip else spelled(name)
    assert any(expected == text.strip("\u2009") for text in shown(figure)), shown(figure)
    assert capfd.readouterr().err == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figure.pdf", "figure.png", "figure.svg"]


def test_powers_of_a_logarithmic_axis_stay_formulas(tmp_path: Path) -> None:
    with style():
        figure, ax = new_figure()
        ax.plot([1, 1000], [0, 1])
        ax.set_xscale("symlog", linthresh=10)
        ax.set_xlabel("$5 and $6")
        save_figure(figure, tmp_path)
        ticks = [label for label in ax.get_xticklabels() if label.get_text()]
    assert any("mathdefault" in label.get_text() for label in ticks) and all(label.get_parse_math() for label in ticks)
    assert not ax.xaxis.label.get_parse_math()


def test_a_letter_that_no_font_has_is_written_as_its_code() -> None:
    assert font_with("\U000e0fff") is None
    assert spelled("a\U000e0fffb\n") == "a[E0FFF]b\n" and spelled("bell\a") == "bell[0007]" and spelled("plain é") == "plain é"
    assert visible("\U000e0fff\r\t é") == "��→·é"


def test_texts_in_the_style_sheet_s_font_are_left_alone(tmp_path: Path) -> None:
    """So that the bytes of a figure do not depend on what fonts are installed."""
    with style():
        figure = forest("probe − « é »")
        save_figure(figure, tmp_path)
    families = {tuple(text.get_fontfamily()) for ax in figure.axes for text in ax.get_yticklabels()}
    assert families == {("sans-serif",)} and shipped("DejaVuSans").has("probe − « é »")


any_name = st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs"]), max_size=8)


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.tuples(any_name, any_name))
def test_any_name_is_drawn(names: tuple[str, str], tmp_path: Path) -> None:
    table: Any = pd.DataFrame({"label": names, "value": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7]})
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="Glyph")
        figure, ax = new_figure()
        panels.forest(ax, table)
        save_figure(figure, tmp_path)
