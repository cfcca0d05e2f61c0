"""Known answers of the analyses of defenses: on the planted model their verdicts equal the planted truth and follow a flip of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.figures import assert_shown, axes_of, words

from safesteer_interp import runner
from safesteer_interp.plotting.panels.strips import visible
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.runner.verification import table_differences

pytestmark = pytest.mark.slow  # a minute of planted models and their answers
FOLDER = Path(__file__).parents[2] / "analyses"
FEW = {"pairs": 24, "answer_pairs": 14, "new_tokens": 16}
"""Enough for the planted effects, which are large; the planted model's answers end after eight tokens."""
Found = tuple[dict[str, pd.DataFrame], dict[str, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Found]:
    """Tables and verdicts of an analysis on a variant of the planted model; one session per variant, so answers are shared."""
    from safesteer_interp.models.planted import build_planted

    benches: dict[str, Session] = {}
    made: dict[str, Found] = {}

    def measured(name: str, settings: dict[str, Any] | None = None, **changes: Any) -> Found:
        variant = json.dumps(changes, sort_keys=True)
        if variant not in benches:
            store = tmp_path_factory.mktemp("store") / "traces"
            benches[variant] = Session(RunSettings(model="planted", store=store, progress=False), loaded_model=build_planted(**changes))
        key = f"{name}{variant}{settings}"
        if key not in made:
            analysis = runner.discover(FOLDER)[name]
            known = set(analysis.params.__dataclass_fields__)  # type: ignore[attr-defined]
            p = analysis.parameters("quick", {k: v for k, v in {**FEW, **(settings or {})}.items() if k in known})
            tables, record = measure(Context(benches[variant], analysis, p, tmp_path_factory.mktemp("work")))
            made[key] = tables, {c["id"]: c["verdict"] for c in record["claims"]}
        return made[key]

    return measured


def value(table: pd.DataFrame, **where: Any) -> float:
    for column, wanted in where.items():
        table = table[table[column] == wanted]
    assert len(table) == 1, where
    return float(table["value"].iloc[0])


def test_ablation_finds_that_the_vector_restores_refusals_and_what_the_printed_sign_does(found: Callable[..., Found]) -> None:
    tables, verdicts = found("defense_ablation")
    table = tables["table"]
    assert verdicts["lets_less_through_corrected"] == verdicts["lets_less_through_untuned"] == "supported"
    loss = tables["tests"].query("measure == 'loss' and baseline == 'none' and attack == 'all'").set_index("condition")["value"]
    assert verdicts["selective_untuned"] != "contradicted" and loss["untuned"] < -0.1, "fourteen pairs need not decide it"
    assert verdicts["lets_less_through_paper"] != "supported", "the printed sign leads away from where texts are refused"
    assert verdicts["needs_msav"] == "supported"
    # Without MSAV no refusal token is among the five candidates, since six planted openers come first: the probe has nothing to choose.
    assert verdicts["msav_brings_refusal_within_reach"] == "supported"
    assert verdicts["beats_strings_and_bias"] != "supported", "on the planted model a string list does as well"
    assert value(table, condition="corrected", attack="pictures", measure="asr") < 0.4
    assert value(table, condition="none", attack="pictures", measure="asr") > 0.7
    assert value(table, condition="no_msav", attack="pictures", measure="asr") > 0.7


def test_ablation_follows_a_probe_that_prefers_compliance(found: Callable[..., Found]) -> None:
    tables, verdicts = found("defense_ablation", token_scores=-1.0)
    assert verdicts["lets_less_through_corrected"] != "supported", "re-ranking by it breaks what MSAV restores"
    assert verdicts["beats_strings_and_bias"] != "supported"
    assert value(tables["table"], condition="no_probe", attack="pictures", measure="asr") < 0.5, (
        "the vector does not depend on token scores"
    )


def test_ablation_without_a_modality_gap_leaves_nothing_for_the_vector(found: Callable[..., Found]) -> None:
    tables, verdicts = found("defense_ablation", gap=0.0)
    assert verdicts["needs_msav"] != "supported"
    assert value(tables["premises"], premise="refusal token in top K", attack="pictures", **{"class": "harmful"}) > 0.5


def test_requests_behind_a_shut_gate_have_the_undefended_answers_and_count(found: Callable[..., Found]) -> None:
    tables, _ = found("defense_ablation")
    table = tables["table"]
    counts = table[(table["attack"] == "all") & (table["measure"] == "rr")].set_index("condition")["n"]
    assert set(counts) == {14 * 3} and set(counts.index) >= {
        "paper",
        "corrected",
        "untuned",
        "random_probe",
        "refusal_strings",
        "logit_bias",
    }
    loss = tables["tests"].query("measure == 'loss' and baseline == 'none' and attack == 'all'").set_index("condition")["value"]
    rates = table[table["attack"] == "all"].set_index(["condition", "measure"])["value"]
    for condition in loss.index:
        gained = rates[condition, "asr"] - rates["none", "asr"] + rates[condition, "rr"] - rates["none", "rr"]
        assert loss[condition] == pytest.approx(gained, abs=1e-5)


def test_budget_finds_what_more_candidates_do(found: Callable[..., Found]) -> None:
    tables, verdicts = found("guidance_budget")
    table, harmful = tables["table"], {"measure": "asr", "axis": "k"}
    # Of twenty planted candidates few refuse, and the score alone chooses; fourteen pairs need not decide it.
    assert verdicts["small_k_is_best_corrected"] != "contradicted"
    assert value(table, x=20, setting="corrected", **harmful) > value(table, x=5, setting="corrected", **harmful)
    assert abs(value(table, x=20, setting="untuned", **harmful) - value(table, x=5, setting="untuned", **harmful)) < 0.3, "log p stays"
    assert (
        value(table, x=0, setting="untuned", measure="asr", axis="steps")
        < 0.6
        < value(table, x=0, setting="none", measure="asr", axis="none")
    )
    assert {"paper", "corrected", "untuned", "refusal_strings"} <= set(table["setting"])
    assert set(table[(table["setting"] == "paper") & (table["axis"] == "steps")]["x"]) == {0, 1, 5, 10}


def test_case_study_shows_guided_tokens_only_in_every_setting(found: Callable[..., Found]) -> None:
    tables, verdicts = found("case_study")
    assert verdicts["intervenes_where_harmful_untuned"] != "contradicted", "its gate is shut on most harmless requests"
    assert tables["table"]["step"].max() < 5
    assert set(tables["table"].columns) >= {"setting", "token", "plain", "score", "probability"}
    assert set(tables["table"]["setting"]) == {"paper", "corrected", "untuned"}
    assert not {"text", "ids"} & {c for t in tables.values() for c in t}
    assert len(tables["table"].groupby("example")) >= 6
    taken = tables["candidates"].groupby(["example", "step"])["chosen"].sum()
    assert set(taken) == {1}


def test_throughput_measures_every_method_and_verify_leaves_timings_out(tmp_path: Path, fresh_cache: Path) -> None:
    settings = {"answer_pairs": "1", "new_tokens": "8", "repeats": "2", "pairs": "10"}
    from safesteer_interp.models.planted import build_planted

    session = Session(RunSettings(model="planted", progress=False), loaded_model=build_planted())
    report = runner.run(["throughput"], out=tmp_path, overrides=settings, session=session, folder=FOLDER)
    assert report.results[0].status == "done", report.results[0].reason
    folder = tmp_path / "throughput" / "planted"
    table = pd.read_csv(folder / "table.csv", keep_default_na=False)
    assert list(table["defense"]) == ["none", "safesteer", "ecso", "coca"]
    assert (table["ratio"] > 0).all()
    assert float(table[table["defense"] == "none"]["ratio"].iloc[0]) == 1
    fit = pd.read_csv(folder / "fit.csv")
    assert (fit["seconds"] > 0).all()
    figures = drawn("throughput", {"table": table, "fit": fit})
    assert_shown(figures, table, "ratio", "ratio_low", "ratio_high")
    assert_shown(figures, fit, "seconds")
    again = runner.verify(["throughput"], figures=tmp_path, folder=FOLDER, benches={"planted": session})
    assert again.exit_code == 0, str(again)
    assert "tokens_per_second" in again.left_out[0][1]
    assert "left out" in str(again)
    timings = runner.discover(FOLDER)["throughput"].timed
    assert not table_differences(table, table.assign(ratio=9.0), without=timings)
    assert table_differences(table, table.assign(requests=9), without=timings), "what is no timing is compared all the same"


BARS = ("value", "low", "high")
SHOWN: dict[str, list[tuple[str, str]]] = {
    "defense_ablation": [
        ("table", "measure == 'asr' and attack != 'all'"),
        ("table", "measure == 'rr' and attack == 'all'"),
        ("tests", "measure == 'loss' and baseline == 'none' and attack == 'all'"),
        ("likelihood", "measure == 'difference to none'"),
        ("scores", "fit == 'prompt'"),
    ],
    "guidance_budget": [("table", f"measure == '{m}' and axis == '{a}'") for m in ("asr", "rr") for a in ("k", "steps")],
}
"""Table -> the rows whose estimates and intervals some panel draws, all of them in that one."""


@pytest.mark.parametrize("name", SHOWN)
def test_figures_show_the_numbers_of_their_tables(found: Callable[..., Found], name: str) -> None:
    tables, _ = found(name)
    figures = drawn(name, tables)
    for table, rows in SHOWN[name]:
        assert_shown(figures, tables[table].query(rows), *BARS, of=rows)


def drawn(name: str, tables: dict[str, pd.DataFrame]) -> Any:
    from safesteer_interp.plotting import style

    analysis = runner.discover(FOLDER)[name]
    with style():
        return analysis.draw(tables, analysis.parameters("quick"))


def test_the_case_study_shows_every_token_and_what_it_replaced(found: Callable[..., Found]) -> None:
    tables, _ = found("case_study")
    table, candidates = tables["table"], tables["candidates"]
    figures = drawn("case_study", tables)
    strips = [words(ax) for ax in axes_of(figures["figure"])]
    for _, example in table.groupby("example"):
        said = [part for row in example.itertuples() for part in [visible(row.token), *([visible(row.plain)] if row.replaced else [])]]
        assert said in strips
    grids = [ax for ax in axes_of(figures["candidates"]) if words(ax)]
    assert len(grids) == candidates[candidates["class"] == "harmful"]["setting"].nunique()
    examples = [example.sort_values(["step", "rank"]) for _, example in candidates.groupby("example")]
    for ax in grids:
        scores = sorted(text.get_text().split()[-1] for text in ax.texts[1::2])
        bold = sorted(text.get_text() for text in ax.texts if text.get_fontweight() == "bold")
        assert any(
            bold == sorted(visible(token) for token in example[example["chosen"].astype(bool)]["token"])
            and scores == sorted(f"{score:+.1f}".replace("-", "−") for score in example["score"])
            for example in examples
        ), "the framed tokens and all scores are those of one example"
