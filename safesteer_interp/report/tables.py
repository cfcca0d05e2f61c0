"""Tables for papers and pages: a number and its interval become one cell, formatted here and nowhere else."""

from __future__ import annotations

import math
import re
from typing import Any

import pandas as pd

LONG = 45
"""More rows than this become a LaTeX longtable."""
FEW = 5
"""Fewer independent units (pairs, draws) than this, and a resampled interval is too narrow to be trusted."""
DAGGER = "†"
FEW_NOTE = f"{DAGGER} fewer than {FEW} pairs (or other independent units): a rough interval"

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    DAGGER: r"\textdagger{}",
}


def number(value: float, decimals: int | None = None) -> str:
    """A number as people read it: two decimals near one, fewer for large ones, scientific for tiny ones, "–" when missing."""
    if value is None or not math.isfinite(value):
        return "–"
    if decimals is None:
        size = abs(value)
        if size != 0 and size < 0.005:
            return f"{value:.1e}"
        decimals = 2 if size < 10 else 1 if size < 1000 else 0
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """ "0.91 [0.88, 0.94]": all three with the decimals that the width of the interval calls for; "0.91 [n/a]" without bounds."""
    if value is None or not math.isfinite(value):
        return "–"
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return f"{number(value)} [n/a]"
    width = high - low
    largest = max(abs(value), abs(low), abs(high))
    needed = 0 if width == 0 else min(4, -math.floor(math.log10(width)))
    decimals = max(needed, 2 if largest < 10 else 1 if largest < 1000 else 0)
    return f"{number(value, decimals)} [{number(low, decimals)}, {number(high, decimals)}]"


def spread(value: float, low: float, high: float) -> str:
    """ "0.50 (0.41 to 0.60)": how draws lie about a value; no interval."""
    return interval(value, low, high).replace(" [", " (").replace(", ", " to ").replace("]", ")")


def is_few(clusters: Any) -> bool:
    """Whether an interval rests on fewer than `FEW` independent units; None and NaN (rows are independent, or unknown) are not few."""
    return clusters is not None and float(clusters) < FEW


def flagged(cell: str, clusters: Any) -> str:
    """An interval's cell with a dagger where it has bounds and rests on few units."""
    return f"{cell}{DAGGER}" if is_few(clusters) and cell.endswith("]") and not cell.endswith("[n/a]") else cell


def has_flags(text: pd.DataFrame) -> bool:
    """Whether a table from `merged` holds a dagger, which `FEW_NOTE` explains."""
    return any(str(cell).endswith(f"]{DAGGER}") for column in text for cell in text[column])


def merged(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text: `value`, `low`, `high` (and `x`, `x_low`, `x_high`) in one column each, other numbers rounded.

    Where a column `clusters` says that an interval rests on few units, a dagger stands behind it. Where a column `kind` says that the
    bounds are a spread of draws, they stand in round brackets and are not called an interval.
    """
    triples = {}
    if {"value", "low", "high"} <= set(table.columns):
        triples["value"] = ("low", "high")
    triples |= {c: (f"{c}_low", f"{c}_high") for c in table.columns if {f"{c}_low", f"{c}_high"} <= set(table.columns)}
    ends = {end for pair in triples.values() for end in pair}
    level, drawn = _level(table), _spreads(table)
    out: dict[str, list[str]] = {}
    for column in table.columns:
        if column in ends or (column == "level" and level):
            continue
        if column in triples:
            low, high = triples[column]
            counts = table["clusters"] if "clusters" in table.columns else [None] * len(table)
            cells = zip(table[column], table[low], table[high], counts, drawn, strict=True)
            words = ([] if all(drawn) else [f"[{level or '95 %'} interval]"]) + ["(spread of draws)"] * any(drawn)
            out[f"{column} {' '.join(words)}"] = [
                spread(*map(float, cell)) if is_spread else flagged(interval(*map(float, cell)), count) for *cell, count, is_spread in cells
            ]
        else:
            out[str(column)] = [_text(v) for v in table[column]]
    return pd.DataFrame(out)


def latex(table: pd.DataFrame, *, caption: str = "", label: str = "") -> str:
    """A booktabs table (longtable when long), everything escaped; needs `\\usepackage{booktabs,longtable}`."""
    text = merged(table)
    numeric = [_numeric(text[c]) for c in text.columns]
    columns = "".join("r" if n else "l" for n in numeric)
    head = " & ".join(escape_latex(str(c)) for c in text.columns) + r" \\"
    rows = [" & ".join(escape_latex(v) for v in row) + r" \\" for row in text.itertuples(index=False, name=None)]
    about = [rf"\caption{{{escape_latex(caption)}}}"] if caption else []
    about += [rf"\label{{{label}}}"] if label else []
    note = [rf"\multicolumn{{{len(columns)}}}{{l}}{{\footnotesize {escape_latex(FEW_NOTE)}}} \\"] if has_flags(text) else []
    if len(rows) > LONG:
        opening = [rf"\begin{{longtable}}{{{columns}}}", *([*about, r"\\"] if about else [])]
        body = [*opening, r"\toprule", head, r"\midrule", r"\endhead", *rows, r"\bottomrule", *note, r"\end{longtable}"]
    else:
        inner = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows, r"\bottomrule", *note, r"\end{tabular}"]
        body = [r"\begin{table}", r"\centering", *about, *inner, r"\end{table}"]
    return "\n".join(body) + "\n"


def markdown(table: pd.DataFrame) -> str:
    """A GitHub-flavoured table; bars and line breaks in cells are escaped."""
    text = merged(table)
    lines = [_bar(map(str, text.columns)), _bar("---:" if _numeric(text[c]) else "---" for c in text.columns)]
    lines += [_bar(row) for row in text.itertuples(index=False, name=None)]
    lines += ["", FEW_NOTE] if has_flags(text) else []
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands, wherever in a table it stands (a row that begins with "[" would be an option of the last)."""
    shown = "".join(_LATEX.get(c, c) for c in _one_line(text).replace("--", "-\x00-")).replace("\x00", "{}").replace("–", "--")
    return f"{{{shown[0]}}}{shown[1:]}" if shown[:1] in ("[", "*") else shown


def escape_markdown(text: str) -> str:
    """Text that GitHub shows as it stands in a table's cell: no bars, no markup, no formula between dollar signs, no entities."""
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", re.sub(r"([\\|`*$~])|(?<!\w)(_)|(_)(?!\w)|(\[)(?=[^\]]*\]\()", r"\\\g<0>", _one_line(text)))
    return shown.replace("<", "&lt;")


def _one_line(text: str) -> str:
    """Line breaks and other control characters as blanks."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)


def _bar(cells: Any) -> str:
    return "| " + " | ".join(escape_markdown(str(c)) for c in cells) + " |"


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return number(float(value)) if isinstance(value, float) and not float(value).is_integer() else f"{value:.0f}"


def _numeric(column: pd.Series) -> bool:
    return all(v[:1].isdigit() or v[:1] in "-–" for v in column.astype(str))


def _spreads(table: pd.DataFrame) -> list[bool]:
    """Which rows hold a spread of draws."""
    return [kind == "spread" for kind in table["kind"]] if "kind" in table.columns else [False] * len(table)


def _level(table: pd.DataFrame) -> str:
    """The level of all intervals, spreads aside; "" where it is not given, or not one."""
    if "level" not in table.columns:
        return ""
    levels = table["level"].fillna(0.95)[[not drawn for drawn in _spreads(table)]]
    return f"{100 * float(levels.iloc[0]):g} %" if levels.nunique() == 1 else ""
