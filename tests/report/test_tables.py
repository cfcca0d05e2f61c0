"""Printed tables format a number and its interval once, mark what rests on few pairs, and let no cell leave its cell."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.results import NASTY

from safesteer_interp.report.tables import FEW_NOTE, escape_latex, escape_markdown, interval, latex, markdown, merged, number


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.50"), (-0.001, "-1.0e-03"), (0.0, "0.00"), (12.34, "12.3"), (4321.0, "4321"), (float("nan"), "–")]
)
def test_a_number_has_the_decimals_its_size_calls_for(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_is_one_cell() -> None:
    assert interval(0.91, 0.88, 0.94) == "0.91 [0.88, 0.94]"
    assert interval(0.9123, 0.9100, 0.9150) == "0.912 [0.910, 0.915]"
    assert interval(12.3, 10.1, 14.2) == "12.3 [10.1, 14.2]"
    assert interval(0.9, float("nan"), 1.0) == "0.90 [n/a]"
    assert interval(-0.001, -0.2, 0.2) == "0.00 [-0.20, 0.20]"
    assert interval(float("nan"), 0.0, 1.0) == "–"


def test_a_spread_of_draws_is_called_no_interval() -> None:
    rows = [
        {"value": 0.9, "low": 0.8, "high": 1.0, "n": 9, "kind": "mean"},
        {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "kind": "spread"},
    ]
    mixed = merged(pd.DataFrame(rows))
    assert list(mixed["value [95 % interval] (spread of draws)"]) == ["0.90 [0.80, 1.00]", "0.50 (0.40 to 0.60)"]
    ranges = pd.DataFrame([rows[0], {**rows[1], "level": 1.0}])
    assert "value [95 % interval] (spread of draws)" in merged(ranges).columns, "the level of a range is not that of the interval"
    assert next(iter(merged(pd.DataFrame(rows[1:])).columns)) == "value (spread of draws)"


def test_ends_are_merged_into_their_value() -> None:
    table = pd.DataFrame(
        {"attack": ["none"], "value": [0.9], "low": [0.8], "high": [1.0], "n": [40], "rr": [0.1], "rr_low": [0.0], "rr_high": [0.2]}
    )
    text = merged(table)
    assert list(text.columns) == ["attack", "value [95 % interval]", "n", "rr [95 % interval]"]
    assert list(text.iloc[0]) == ["none", "0.90 [0.80, 1.00]", "40", "0.10 [0.00, 0.20]"]
    assert "value [90 % interval]" in merged(table.assign(level=0.9)).columns


def test_an_interval_of_few_pairs_is_marked_and_the_mark_explained() -> None:
    ends = {"value": [0.9, 0.9, 0.9], "low": [0.8, 0.8, float("nan")], "high": [1.0, 1.0, float("nan")]}
    table = pd.DataFrame({**ends, "n": [8, 10, 2], "clusters": [4, 5, 1]})
    assert list(merged(table)["value [95 % interval]"]) == ["0.90 [0.80, 1.00]†", "0.90 [0.80, 1.00]", "0.90 [n/a]"]
    printed, shown = latex(table), markdown(table)
    assert printed.count(r"\textdagger{}") == shown.count("†") == 2, "on one interval and in front of the note"
    assert r"\multicolumn{3}{l}{\footnotesize \textdagger{} fewer than 5 pairs" in printed
    assert shown.endswith("\n\n" + FEW_NOTE + "\n")
    assert r"\multicolumn{3}" in latex(pd.concat([table] * 30)), "a long table has the note as well"
    for enough in (table.assign(clusters=5), table.drop(columns="clusters"), table.assign(clusters=float("nan"))):
        assert "dagger" not in latex(enough) and "†" not in markdown(enough)


def test_latex_escapes_and_balances() -> None:
    table = pd.DataFrame({"name_x": [NASTY, "$5 ~ ^ \\"], "value": [0.9, 0.1], "low": [0.8, 0.0], "high": [1.0, 0.2]})
    text = latex(table, caption="50 % of {it}", label="tab:x")
    assert r"\_x" in text and r"\&" in text and r"50 \%" in text and r"\$5 \textasciitilde{} \textasciicircum{} \textbackslash{}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert re.search(r"\\begin\{tabular\}\{lr\}", text)
    long = latex(pd.concat([table] * 30))
    assert long.startswith(r"\begin{longtable}") and r"\begin{table}" not in long
    assert escape_latex("a–b") == "a--b"


def unescaped(text: str, specials: str) -> str:
    """What stands in the text unescaped of characters that mean something."""
    return "".join(c for c in re.sub(r"\\.", "", text) if c in specials)


@given(st.text(max_size=30))
def test_no_cell_can_leave_its_cell(cell: str) -> None:
    printed = escape_latex(cell)
    assert "\n" not in printed and "\r" not in printed
    assert "–" in cell or "--" not in printed
    words = re.sub(r"\\text(backslash|asciitilde|asciicircum)\{\}", "", printed)
    assert unescaped(words.replace("{}", "").replace("{[}", "").replace("{*}", ""), "&%$#_^~{}") == ""
    assert not re.match(r"[\[*]", printed), "no option or star of the row before"
    shown = escape_markdown(cell)
    assert "<" not in shown and "\n" not in shown and unescaped(shown, "|`*$~") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("$5 scam for $9", "\\$5 scam for \\$9"),
        ("a\\|b", "a\\\\\\|b"),
        ("more_or less", "more_or less"),
        ("_less_", "\\_less\\_"),
        ("[x](http://y)", "\\[x](http://y)"),
        ("0.91 [0.88, 0.94]", "0.91 [0.88, 0.94]"),
        ("&lt; & b", "&amp;lt; & b"),
    ],
)
def test_markdown_shows_a_text_as_it_stands(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown


def test_markdown_keeps_its_columns() -> None:
    text = markdown(pd.DataFrame({"text": [NASTY], "n": [3]}))
    lines = text.splitlines()
    assert lines[1] == "| --- | ---: |"
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in lines)
    assert "<script>" not in text
