"""Printed numbers beside ours: the right column, judge and form, changes from the undefended, and outcomes that can go each way."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from safesteer_interp.evaluation.comparison import rate_table
from safesteer_interp.evaluation.printed import COLUMNS, MODEL_OF_TABLE_2, TABLE_1, TABLE_2, TABLE_3
from safesteer_interp.replication import cells
from safesteer_interp.replication.protocol import (
    COLUMNS_OF_TABLE_1,
    FIGURES,
    MM_SAFETYBENCH,
    Choices,
    deviations,
    printed_model,
    rows_of_table_1,
    safesteer_named,
)

QWEN = "Qwen2.5-VL-7B"


def hits(
    method: str, benchmark: str, values: list[float], *, judge: str = "guard", measure: str = "asr", attack: str = "SD"
) -> pd.DataFrame:
    """One answer per value, each of a pair of its own, in two scenarios."""
    rows = [{"method": method, "benchmark": benchmark, "judge": judge, "measure": measure, "request": f"r{i}", "seed": 0, "pair": f"p{i}",
             "scenario": f"s{i % 2}", "attack": attack, "hit": v} for i, v in enumerate(values)]  # fmt: skip
    return pd.DataFrame(rows).astype({"hit": "Float64"})


def test_columns_are_the_papers() -> None:
    assert tuple(column.name for column in COLUMNS_OF_TABLE_1) == COLUMNS
    assert rows_of_table_1() == tuple(TABLE_1[QWEN]) and set(FIGURES.values()) >= {"Fig. 4", "Fig. 5", "Fig. 6", "Fig. 7"}


def test_table_1_takes_each_column_from_its_judge_and_compares_changes() -> None:
    half, none = [1.0, 0.0] * 20, [0.0] * 40
    some = [1.0] * 14 + [0.0] * 26  # 35 %: as printed
    found = pd.concat([
        hits("none", "FigStep", some), hits("safesteer", "FigStep", none), hits("ecso", "FigStep", half),
        hits("none", "FigStep", none, judge="strings"), hits("none", "VLGuard SS", half, judge="list", measure="rr"),
        hits("none", "MM-Vet", [0.5] * 40, judge="graded by x", measure="accuracy"),
    ])  # fmt: skip
    table = {(c["row"], c["column"]): c for c in cells.table_1(rate_table(found), QWEN, "guard", "list")}
    assert len(table) == 30
    vanilla = table["none", "FigStep ASR"]
    assert vanilla["printed"] == 35.20 and vanilla["value"] == pytest.approx(35) and vanilla["low"] < 35.2 < vanilla["high"]
    assert vanilla["outcome"] == "within our interval" and math.isnan(vanilla["change"]) and vanilla["n"] == 40
    steered = table["safesteer", "FigStep ASR"]
    assert steered["change"] == pytest.approx(-35) and steered["printed_change"] == pytest.approx(-33.4)
    assert table["ecso", "FigStep ASR"]["outcome"] == "outside, other direction", "50 % where the paper falls from 35.2 to 25.4"
    assert table["none", "VLGuard SS RR"]["value"] == pytest.approx(50)
    assert table["none", "MM-Vet accuracy"]["judge"] == "graded by x" and table["none", "MM-Vet accuracy"]["value"] == pytest.approx(50)
    assert table["mrd", "FigStep ASR"]["outcome"] == cells.NOT_MEASURED
    assert sum(cells.tally(table.values()).values()) == 30


def test_table_3_is_by_form_and_a_mean_over_scenarios() -> None:
    uneven = pd.concat([hits("none", MM_SAFETYBENCH, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0], attack=form) for form in ("CB", "SD", "TYPO")])
    uneven = pd.concat([uneven, hits("none", MM_SAFETYBENCH, [1.0] * 30, attack="CB").assign(pair="q", scenario="s0", request="x")])
    table = {(c["row"], c["column"]): c for c in cells.table_3(uneven, QWEN, "guard")}
    cell = table["without both", f"{MM_SAFETYBENCH} CB ASR"]
    assert cell["printed"] == TABLE_3[QWEN]["without both"][0] and cell["value"] == pytest.approx(50), "33 of s0 weigh as much as 3 of s1"
    assert table["full", f"{MM_SAFETYBENCH} All ASR"]["outcome"] == cells.NOT_MEASURED and len(table) == 16
    assert all(c["outcome"] == cells.NOT_MEASURED for c in cells.table_3(uneven.iloc[:0], QWEN, "guard"))


def test_speeds_are_ratios() -> None:
    rows = {"defense": "safesteer", "ratio": 0.96, "ratio_low": 0.94, "ratio_high": 0.98, "n": 3}
    table = {(c["row"], c["column"]): c for c in cells.table_2(pd.DataFrame([rows]), {"safesteer": 0.01}, QWEN)}
    cell = table["safesteer", "speed"]
    assert cell["printed"] == pytest.approx(TABLE_2["safesteer"] / TABLE_2["none"]) and cell["outcome"] == "within our interval"
    assert table["ecso", "speed"]["outcome"] == cells.NOT_MEASURED
    assert table["safesteer", "training"]["outcome"] == "faster" and math.isnan(table["mllm_protector", "training"]["value"])


def test_table_2_is_of_one_model_and_its_unit_agrees_with_nothing() -> None:
    speeds = pd.DataFrame([{"defense": m, "ratio": r, "ratio_low": r, "ratio_high": r, "n": 3} for m, r in (("none", 1.0), ("ecso", 0.5))])
    own, other = cells.table_2(speeds, {"safesteer": 0.01}, MODEL_OF_TABLE_2), cells.table_2(speeds, {"safesteer": 0.01}, "LLaVA-1.5-7B")
    assert MODEL_OF_TABLE_2 == QWEN and cells.tally(own) == {"outside": 1, cells.NOT_MEASURED: 4, "faster": 1}
    assert cells.tally(other) == {cells.OTHER_MODEL: 2, cells.NOT_MEASURED: 4}
    assert [c["outcome"] for c in (own[0], other[0])] == [cells.BASELINE] * 2 and other[1]["value"] == 0.5, "shown all the same"


@pytest.mark.parametrize(("method", "benchmark", "measure", "outcome"), [
    ("ecso", "FigStep", "asr", "outside, no change here"),
    ("ecso", "VLGuard SS", "rr", "outside, no change printed or here"),
    ("mrd", "VLGuard SS", "rr", "outside, no change printed"),
])  # fmt: skip
def test_no_change_has_no_direction(method: str, benchmark: str, measure: str, outcome: str) -> None:
    every, judge = [1.0] * 40, "guard" if measure == "asr" else "list"
    ours = every if method == "ecso" else [1.0, 0.0] * 20
    found = pd.concat([hits(m, benchmark, v, judge=judge, measure=measure) for m, v in (("none", every), (method, ours))])
    table = {(c["row"], c["column"]): c for c in cells.table_1(rate_table(found), QWEN, "guard", "list")}
    assert table[method, f"{benchmark} {measure.upper()}"]["outcome"] == outcome


def test_deviations_are_named_and_only_those_that_are() -> None:
    plain = deviations(
        Choices(judges=("llama_guard",), grader="mm_vet:model=gpt-4", system_prompt="x"), "llava-hf/llava-1.5-7b-hf", "llava", ()
    )
    assert not any("did not measure" in d or "No judge of harm" in d or "system prompt" in d for d in plain)
    for words in ("graded by gpt-4", "asked in the suite's own words", "Table 2 for Qwen2.5-VL-7B only", "does not print the size",
                  "MRD asks", "shown the harmful question itself", "not shown to the judge"):  # fmt: skip
        assert sum(words in d for d in plain) == 1, words
    other = deviations(Choices(rule="corrected", items=5, new_tokens=32, profile="quick", quant="4bit"), "mine", "gemma3", ("no SD.",))
    for words in ("did not measure mine", "corrected", "At most 5 items", "after 32 tokens", "quick profile", "packed to 4bit", "no SD.",
                  "No judge of harm", "not graded", "count as no success by a rule."):  # fmt: skip
        assert sum(words in d for d in other) == 1, words
    assert not any("Table 2" in d or "shown to the judge" in d or "own words, without" in d for d in other)
    asked = Choices(judges=("llama_guard_vision", "llama_guard"), harm="Guard-Vision", grader="mm_vet:model=gpt-4,question=x")
    second = deviations(asked, "Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", ())
    assert "The judge of harm is Guard-Vision; the paper's is Llama Guard 3." in second, "the first judge fills the tables"
    assert any("shown the picture" in d for d in second) and not any("harmful question itself" in d for d in second)
    assert not any("suite's own words, without" in d for d in second), "a prompt was given"
    assert printed_model("qwen3_vl") == "Qwen3-VL-8B" and printed_model("gemma3") == QWEN
    assert safesteer_named("paper", "TYPO", steps=0) == "safesteer-paper:k=5,steps=0,force=true,image_form=TYPO"
