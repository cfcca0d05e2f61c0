"""Every number of the paper's three tables beside ours: value, interval, number of items, and whether they agree."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from safesteer_interp.evaluation.comparison import GRADES, rate_table
from safesteer_interp.evaluation.printed import FORMS, MODEL_OF_TABLE_2, TABLE_1, TABLE_2, TABLE_3
from safesteer_interp.replication.protocol import COLUMNS_OF_TABLE_1, MM_SAFETYBENCH

ALL = "All"
ROWS_OF_TABLE_3 = {"full": "safesteer", "without probe": "without probe", "without MSAV": "without MSAV", "without both": "none"}
"""Row of Table 3 -> the method that it is here."""
TRAINING_HOURS = {"mllm_protector": 15.0, "safesteer": 0.03}
"""Hours of training that Table 2 prints."""
CELL = (
    "table",
    "row",
    "column",
    "unit",
    "printed",
    "value",
    "low",
    "high",
    "n",
    "unjudged",
    "judge",
    "printed_change",
    "change",
    "outcome",
)
NOT_MEASURED = "not measured"
BASELINE = "1 by definition"
"""Outcome of the undefended model's own speed, which is its unit: it agrees with anything, and is in no tally."""
OTHER_MODEL = f"printed for {MODEL_OF_TABLE_2} only"
"""Outcome of what is measured beside numbers of another model: they are shown, and nothing is said of them."""
UNCHANGED = 1e-9
"""Changes up to here (points of %) are none: equal rates may differ in the last digit."""


def table_1(rates: pd.DataFrame, model: str, judge: str, refusals: str) -> list[dict[str, Any]]:
    """Table 1 in %: `rates` as `comparison.rate_table` gives them by method and benchmark.

    `judge` says of harm, `refusals` of refusals of the harmless; accuracy is what the grader says.
    """
    said = {"asr": judge, "rr": refusals, "accuracy": ""}
    cells = []
    for place, column in enumerate(COLUMNS_OF_TABLE_1):
        ours = {m: _rate(rates, m, column.benchmark, column.measure, said[column.measure], macro=column.macro) for m in TABLE_1[model]}
        printed = {method: values[place] for method, values in TABLE_1[model].items()}
        cells += [_cell("Table 1", m, column.name, "%", printed, ours, m) for m in printed]
    return _by_row(cells, TABLE_1[model])


def table_3(hits: pd.DataFrame, model: str, judge: str) -> list[dict[str, Any]]:
    """Table 3 in %: attack success on MM-SafetyBench by form and over all, a mean over scenarios each."""
    asked = hits[(hits["benchmark"] == MM_SAFETYBENCH) & (hits["measure"] == "asr")]
    if asked.empty:
        rates = pd.DataFrame()
    else:
        by = ("method", "judge", "measure")
        forms = rate_table(asked, ("method", "attack", "judge", "measure")).rename(columns={"attack": "benchmark"})
        rates = pd.concat([forms, rate_table(asked, by).assign(benchmark=ALL)], ignore_index=True)
    cells = []
    for place, form in enumerate((*FORMS, ALL)):
        ours = {row: _rate(rates, method, form, "asr", judge, macro=True) for row, method in ROWS_OF_TABLE_3.items()}
        printed = {row: TABLE_3[model][row][place] for row in ROWS_OF_TABLE_3}
        cells += [_cell("Table 3", row, f"{MM_SAFETYBENCH} {form} ASR", "%", printed, ours, row, plain="without both") for row in printed]
    return _by_row(cells, ROWS_OF_TABLE_3)


def table_2(speeds: pd.DataFrame, training: Mapping[str, float], model: str) -> list[dict[str, Any]]:
    """Table 2 as ratios to no defense, for the paper's tokens per second are those of its machine; and hours of training.

    `speeds`: `throughput`'s table, intervals from the slowest to the fastest repeat; `training`: method -> hours that a fit took here;
    `model`: the paper's model that the others' numbers are of. The paper prints this table for one model: beside another's own numbers no
    outcome is given.
    """
    measured = {} if speeds.empty else {row["defense"]: row for row in speeds.to_dict("records")}
    cells = []
    for method, speed in TABLE_2.items():
        row = measured.get(method)
        ours = {} if row is None else {"value": row["ratio"], "low": row["ratio_low"], "high": row["ratio_high"], "n": row["n"]}
        cell = _with_outcome({**_empty("Table 2", method, "speed", "x none", speed / TABLE_2["none"]), **ours})
        cells.append({**cell, "outcome": BASELINE} if ours and method == "none" else cell)
    for method, hours in TRAINING_HOURS.items():
        cell = _empty("Table 2", method, "training", "h", hours)
        if method in training:
            cell |= {"value": training[method], "n": 1, "outcome": "faster" if training[method] < hours else "slower"}
        cells.append(cell)
    kept = (NOT_MEASURED, BASELINE)
    return cells if model == MODEL_OF_TABLE_2 else [c if c["outcome"] in kept else {**c, "outcome": OTHER_MODEL} for c in cells]


def table(cells: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """All cells as one table."""
    return pd.DataFrame(list(cells), columns=list(CELL))


def tally(cells: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many cells end how, without the baseline that is 1 by definition."""
    counts: dict[str, int] = {}
    for cell in (cell for cell in cells if cell["outcome"] != BASELINE):
        counts[cell["outcome"]] = counts.get(cell["outcome"], 0) + 1
    return counts


def _rate(rates: pd.DataFrame, method: str, benchmark: str, measure: str, judge: str, *, macro: bool) -> dict[str, Any]:
    """value, low, high in %, n and unjudged of one rate; empty where there is none."""
    if rates.empty:
        return {}
    found = rates[(rates["method"] == method) & (rates["benchmark"] == benchmark) & (rates["measure"] == measure)]
    found = found[found["judge"] == judge] if judge else found[found["judge"] != GRADES]
    if found.empty or not math.isfinite(found.iloc[0]["value"]):
        return {}
    row = found.iloc[0]
    bounded = macro and math.isfinite(row["macro_low"])  # where all say the same, the rate over items has an interval and the mean none
    names = ("macro", "macro_low", "macro_high") if bounded else ("value", "low", "high")
    numbers = {name: 100 * float(row[own]) for name, own in zip(("value", "low", "high"), names, strict=True)}
    return {**numbers, "n": int(row["n"]), "unjudged": int(row["unjudged"]), "judge": str(row["judge"])}


def _cell(
    table: str, row: str, column: str, unit: str, printed: Mapping[str, float], ours: Mapping[str, dict[str, Any]], key: str, *,
    plain: str = "none",
) -> dict[str, Any]:  # fmt: skip
    """A printed number with ours, and both their changes from the undefended model's."""
    cell = {**_empty(table, row, column, unit, printed[key]), **ours[key]}
    if key != plain:
        cell["printed_change"] = printed[key] - printed[plain]
        if "value" in ours[key] and "value" in ours[plain]:
            cell["change"] = ours[key]["value"] - ours[plain]["value"]
    return _with_outcome(cell)


def _empty(table: str, row: str, column: str, unit: str, printed: float) -> dict[str, Any]:
    blank = dict.fromkeys(CELL, math.nan)
    return {**blank, "table": table, "row": row, "column": column, "unit": unit, "printed": printed, "judge": "", "outcome": NOT_MEASURED}


def _with_outcome(cell: dict[str, Any]) -> dict[str, Any]:
    """ "within our interval", or "outside" and whether both change the undefended number in the same direction, or one not at all."""
    if not math.isfinite(cell["value"]):
        return cell
    if cell["low"] <= cell["printed"] <= cell["high"]:
        return {**cell, "outcome": "within our interval"}
    one, other = cell["printed_change"], cell["change"]
    if not (math.isfinite(one) and math.isfinite(other)):
        return {**cell, "outcome": "outside"}
    still = [where for change, where in ((one, "printed"), (other, "here")) if abs(change) <= UNCHANGED]
    if still:
        return {**cell, "outcome": f"outside, no change {' or '.join(still)}"}
    return {**cell, "outcome": "outside, same direction" if one * other > 0 else "outside, other direction"}


def _by_row(cells: list[dict[str, Any]], rows: Iterable[str]) -> list[dict[str, Any]]:
    """Row by row, as the paper has them."""
    return [cell for row in rows for cell in cells if cell["row"] == row]
