"""Known answers of the comparison: on the planted model what works works, what merely refuses more is no defense, and figures are drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safesteer_interp import runner
from safesteer_interp.errors import NotApplicableError
from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.analysis import like_returned
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.session import RunSettings, Session

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "analyses"
SMALL = {"pairs": 20, "new_tokens": 8, "auxiliary_tokens": 4, "cost_requests": 1}
METHODS = ("safesteer", "coca", "refusal_bias", "jrs_rem", "conformal")
Found = tuple[dict[str, pd.DataFrame], dict[str, str], Any]


@pytest.fixture(scope="module")
def found(planted: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Found]:
    """Tables, verdicts and figures of an analysis on the planted model; answers are shared."""
    store = tmp_path_factory.mktemp("store") / "traces"
    session = Session(RunSettings(model="planted", store=store, progress=False), loaded_model=planted)

    def measured(name: str, **settings: Any) -> Found:
        analysis = runner.discover(FOLDER)[name]
        known = analysis.params.__dataclass_fields__  # type: ignore[attr-defined]
        given = {**SMALL, "methods": METHODS, **settings}
        p = analysis.parameters("quick", {k: v for k, v in given.items() if k in known})
        tables, record = measure(Context(session, analysis, p, tmp_path_factory.mktemp("work")))
        return tables, {c["id"]: c["verdict"] for c in record["claims"]}, analysis.draw(like_returned(tables), p)

    return measured


def value(table: pd.DataFrame, **where: Any) -> float:
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    assert len(table) == 1, where
    return float(table["value"].iloc[0])


def test_the_comparison_tells_defenses_from_what_merely_refuses(found: Callable[..., Found]) -> None:
    tables, verdicts, figures = found("defense_comparison")
    rates = tables["table"]
    assert value(rates, method="none", benchmark="all", judge="refusal strings (default)", measure="asr") > 0.75
    for name in ("safesteer",):
        assert "contradicted" not in (verdicts[f"lowers_{name}"], verdicts[f"selective_{name}"]), name
        assert value(rates, method=name, benchmark="all", judge="refusal strings (default)", measure="asr") < 0.5, name
    assert verdicts["lowers_coca"] != "supported", "the planted model does not understand a principle"
    assert "selective_refusal_bias" not in verdicts, "it is the control"
    assert verdicts["safesteer_lets_least_through"] != "supported", "JRS-Rem and the threshold do as well here"
    orders = tables["orders"].set_index(["measure", "first", "second"])
    assert orders.loc[("asr", "none", "safesteer"), "lower"] != "none" and orders.loc[("asr", "none", "safesteer"), "pairs"] == 24
    costs = tables["costs"].set_index("method")
    assert costs.loc["coca", "forwards_ratio"] == pytest.approx(2, abs=0.01)
    assert costs.loc["safesteer", "forwards_ratio"] == pytest.approx(1, abs=0.01)
    assert set(figures) == {"figure", "judges"}


def test_each_pair_is_asked_in_one_form_and_both_forms_occur(found: Callable[..., Found]) -> None:
    tables, _, _ = found("defense_comparison")
    rates = tables["table"]
    counts = {form: int(rates[(rates["benchmark"] == form) & (rates["method"] == "none")]["n"].iloc[0]) for form in ("SD", "TYPO")}
    assert counts == {"SD": 12, "TYPO": 12}


def test_judges_are_compared_on_the_same_answers(found: Callable[..., Found]) -> None:
    tables, verdicts, _ = found("judge_agreement")
    kappa = tables["kappa"].set_index(["first", "second"])
    assert kappa.loc[("default", "xstest"), "value"] == 1, '"sorry i cannot help" is a refusal by both'
    assert kappa.loc[("default", "arditi"), "value"] == 0, "Arditi's list has no bare sorry"
    assert verdicts["lists_agree"] != "supported" and verdicts["judge_moves_the_rate"] == "supported"
    assert set(tables["labelled"]["strings"]) >= {"default", "vlguard"}
    assert tables["ranks"].groupby("judge")["place"].sum().nunique() == 1


def test_combinations_are_held_against_their_better_part(found: Callable[..., Found]) -> None:
    tables, verdicts, _ = found("defense_composition", combinations=("adashield+safesteer", "safesteer+mllm_protector"))
    asr = tables["table"][tables["table"]["measure"] == "asr"].set_index("method")["value"]
    assert set(asr.index) == {"none", "adashield", "safesteer", "mllm_protector", "adashield+safesteer", "safesteer+mllm_protector"}
    assert asr["safesteer+mllm_protector"] <= asr["safesteer"] + 1e-9, "a review can only refuse more"
    assert {"safesteer_and_mllm_protector_lowers_further", "adashield_and_safesteer_drifts"} <= set(verdicts)


def test_printed_numbers_are_checked_by_arithmetic(found: Callable[..., Found]) -> None:
    tables, verdicts, _ = found("paper_numbers")
    held = tables["checks"].set_index(["check", "cell"])
    assert not bool(held.loc[("average", "LLaVA-1.5-7B, without both: All"), "fits"])
    assert held.loc[("average", "LLaVA-1.5-7B, without both: All"), "expected"] == pytest.approx(36.61)
    assert bool(held.loc[("count", "Qwen2.5-VL-7B, none: FigStep ASR"), "fits"])
    assert not bool(held.loc[("count", "LLaVA-1.5-7B, ecso: VLGuard U ASR"), "fits"])
    fits = tables["fits"].set_index("check")
    assert fits.loc["average", "value"] == pytest.approx(0.5) and fits.loc["same", "value"] == 1
    assert verdicts["printed_averages_fit"] == "contradicted" and verdicts["printed_counts_fit"] == "supported"
    figstep = tables["table"].query("model == 'Qwen2.5-VL-7B' and benchmark == 'FigStep ASR' and method == 'safesteer'")
    assert figstep["change"].iloc[0] == pytest.approx(-33.4)


def test_typography_needs_words_that_can_be_typed(found: Callable[..., Found]) -> None:
    with pytest.raises(NotApplicableError, match="cannot be typed"):
        found("typography_or_text")


def test_the_four_cells_say_the_same_words(root: Path) -> None:
    from safesteer_interp.datasets.bundled import load_bundled

    analysis = runner.discover(FOLDER)["typography_or_text"]
    cells: Callable[[list[Request]], list[Request]] = analysis._module["cells"]
    pair = list(load_bundled(("TEXT", "TYPO"), "test"))[:4]
    made = {r.scenario: r for r in cells(pair) if r.harmful}
    text, drawn = (next(r for r in pair if r.harmful and r.attack is form) for form in (Attack.TEXT, Attack.TYPO))
    assert made["typed/question"].text == text.text and vars(made["drawn/question"].image)["text"] == text.text
    phrase = vars(drawn.image)["text"]
    assert made["typed/carrier"].text == f'{drawn.text} "{phrase}"' and made["drawn/carrier"].image is drawn.image
    sizes = {name: r.image.load().size for name, r in made.items() if r.image is not None}
    assert len(set(sizes.values())) == 1 and len(sizes) == 4, "every cell shows a picture of one size"
    assert len({r.id for r in cells(pair)}) == 8
