"""Printed tables format a number and its interval once; the gallery shows everything, escapes everything and asks no network."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.errors import InputError
from safesteer_interp.mini_training.card import MEASURES
from safesteer_interp.mini_training.projector_gap import draw_projector_gap, gap_tables
from safesteer_interp.report.gallery import build, collect_findings
from safesteer_interp.report.intervals import claim_picture
from safesteer_interp.report.tables import FEW_NOTE, escape_latex, escape_markdown, interval, latex, markdown, merged, number

NASTY = '<script>alert("x")</script> & 50 % of a|b_c'


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


def claim(verdict: str = "supported", **changes: Any) -> dict[str, Any]:
    estimate = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40, "clusters": 20, "level": 0.95, "p": 0.01, "against": 0.5, "kind": "auroc"}
    control = {"name": "bag_of_words", "kind": "null", "absolute": False, "estimate": {**estimate, "value": 0.5, "low": 0.4, "high": 0.6}}
    return {
        "id": "c", "statement": f"Harm is readable {NASTY}", "verdict": verdict, "reason": "the whole interval lies above 0.5",
        "kind": "finding", "source": "", "printed": "", "p": 0.01, "p_holm": 0.03, "clusters_missing": 0, "clusters": "pairs",
        "difference_to": "", "effect": None, "estimate": estimate, "unit": "AUROC", "direction": "above", "threshold": 0.5,
        "controls": [control], "note": "", **changes,
    }  # fmt: skip


def result(figures: Path, analysis: str, folder: str, *, model: str = "mini", dataset: str = "bundled", order: int = 1) -> Path:
    """A result folder as the runner leaves it."""
    place = figures / analysis / folder
    place.mkdir(parents=True)
    about = {
        "id": analysis, "title": f"Title of {analysis}", "question": "Is it so?", "replicates": "SafeSteer Fig. 7",
        "cites": ["arXiv:2605.11716"], "order": order, "captions": {"figure": NASTY},
    }  # fmt: skip
    record = {
        "analysis": about, "input_key": "0" * 64, "profile": "quick", "params": {"text": NASTY, "pairs": None},
        "model": {"name": model, "source": "", "fingerprint": "f" * 64, "family": "llava", "layers": 30, "width": 576,
                  "takes_images": True, "dtype": "float32", "known_answer": model == "planted"},
        "data": {"name": dataset, "requests": {}}, "traces": ["a" * 64], "seeds": {"control": 3}, "tables": {"table": 200},
        "versions": {"python": "3.11"}, "run": {"finished": "2026-01-01", "seconds": 3.0},
    }  # fmt: skip
    (place / "provenance.json").write_text(json.dumps(record))
    (place / "claims.json").write_text(json.dumps({"scope": f"Scope {model}", "model": model, "dataset": dataset, "claims": [claim()]}))
    pd.DataFrame({"answer": [NASTY] * 200, "value": 0.9, "low": 0.8, "high": 1.0, "n": 4}).to_csv(place / "table.csv", index=False)
    for kind in ("svg", "pdf", "png"):
        (place / f"figure.{kind}").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return place


class Page(HTMLParser):
    """Elements, references and text of a page; complains about tags that do not match."""

    VOID = ("meta", "img", "input", "br", "link", "hr", "rect", "line", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def gallery(tmp_path: Path) -> Page:
    result(tmp_path, "layer_choice", "mini", order=2)
    result(tmp_path, "prefill", "mini", order=1)
    result(tmp_path, "prefill", "mini@figstep", dataset="figstep", order=1)
    result(tmp_path, "prefill", "planted", model="planted", dataset="planted", order=1)
    skipped = tmp_path / "prefill" / "words"
    skipped.mkdir()
    about = {"id": "prefill", "title": "Title of prefill", "question": "Is it so?", "replicates": "", "cites": [], "order": 1}
    (skipped / "skipped.json").write_text(json.dumps({"analysis": about, "reason": "the model takes text only"}))
    page = Page(build(tmp_path).read_text())
    assert not page.open
    return page


@pytest.mark.parametrize("change", [{"order": {}}, {"id": ["prefill"]}, {"cites": 3}, {"question": None}])
def test_a_record_with_a_field_of_another_kind_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    place = result(tmp_path, "prefill", "mini", order=1)
    record = json.loads((place / "provenance.json").read_text())
    record["analysis"].update(change)
    (place / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"prefill.mini: its records are not as `safesteer run` writes them .*run the analysis again"):
        build(tmp_path)


def test_nothing_of_the_data_becomes_markup(gallery: Page) -> None:
    assert not [t for t, _ in gallery.tags if t == "script"]
    assert '<script>alert("x")</script>' in gallery.words, "it is shown as text"


def test_the_page_asks_no_network_and_every_file_it_names_is_there(gallery: Page, tmp_path: Path) -> None:
    for tag, attributes in gallery.tags:
        if source := attributes.get("src"):
            assert (tmp_path / source).is_file()
        target = attributes.get("href") or ""
        if target.startswith("#"):
            assert any(a.get("id") == target[1:] for _, a in gallery.tags), target
        elif target and not target.startswith("https://arxiv.org/abs/"):
            assert tag == "a" and (tmp_path / target).is_file(), target
    policy = next(a["content"] for t, a in gallery.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy


def test_ids_are_unique_and_pictures_have_words(gallery: Page) -> None:
    ids = [a["id"] for _, a in gallery.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    assert all(a.get("alt") for t, a in gallery.tags if t == "img")


def test_findings_come_in_order_with_the_fixture_apart_and_stamped(gallery: Page, tmp_path: Path) -> None:
    findings, checks = collect_findings(tmp_path)
    assert [f.id for f in findings] == ["prefill", "layer_choice"] and [f.id for f in checks] == ["prefill"]
    assert [e.name for e in findings[0].entries] == ["mini", "mini on figstep", "words"]
    assert all(e.known_answer for f in checks for e in f.entries)
    assert "known-answer fixture: proves machinery, not a finding" in gallery.words
    assert gallery.words.index("Known-answer checks") < gallery.words.rindex("Scope planted")


def test_it_says_why_something_is_missing_and_where_the_rest_of_a_table_is(gallery: Page) -> None:
    assert "Not measured here: the model takes text only" in gallery.words
    assert "The first 150 of 200 rows" in gallery.words
    assert "replicates SafeSteer Fig. 7" in gallery.words


def test_the_page_marks_claims_and_tables_of_few_pairs(gallery: Page, tmp_path: Path) -> None:
    assert "20 pairs)" in gallery.words and "(few)" not in gallery.words and FEW_NOTE not in gallery.words
    place = result(tmp_path / "few", "prefill", "mini")
    estimate = {**claim()["estimate"], "clusters": 4}
    few = claim(estimate=estimate, controls=[{"name": "length", "null": True, "estimate": estimate}])
    (place / "claims.json").write_text(json.dumps({"scope": "", "model": "mini", "dataset": "bundled", "claims": [few]}))
    (place / "table.csv").write_text("value,low,high,n,clusters\n0.9,0.8,1.0,8,4\n")
    words = Page(build(tmp_path / "few").read_text()).words
    assert "n = 40, 4 pairs (few)" in words and "length: 0.90 [0.80, 1.00] (few)" in words
    assert "0.90 [0.80, 1.00]†" in words and FEW_NOTE in words


def test_the_page_is_the_same_when_built_again(tmp_path: Path) -> None:
    result(tmp_path, "prefill", "mini")
    first = build(tmp_path).read_bytes()
    record = json.loads((tmp_path / "prefill" / "mini" / "provenance.json").read_text())
    record["run"] = {"finished": "2027-01-01", "seconds": 99.0}
    (tmp_path / "prefill" / "mini" / "provenance.json").write_text(json.dumps(record))
    assert build(tmp_path).read_bytes() == first


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result below"):
        build(tmp_path)
    (result(tmp_path, "prefill", "mini") / "claims.json").write_text("{")
    with pytest.raises(InputError, match=r"claims\.json is not readable"):
        build(tmp_path)


def test_the_small_picture_shades_the_claimed_side() -> None:
    picture = str(claim_picture(claim()))
    edge = float(re.search(r'class="edge" x1="([\d.]+)"', picture)[1])  # type: ignore[index]
    region = re.search(r'class="region" x="([\d.]+)"', picture)
    assert region is not None and float(region[1]) == edge
    assert "<script" not in picture and picture.count("<circle") == 2
    below = str(claim_picture(claim(direction="below")))
    assert float(re.search(r'class="region" x="([\d.]+)"', below)[1]) < edge  # type: ignore[index]
    nothing = {"value": None, "low": None, "high": None, "n": 0, "clusters": None, "level": 0.95}
    assert claim_picture(claim(estimate=nothing)) == ""
    assert claim_picture(claim(direction="within", threshold=[0.2, 0.6]))


def test_the_gap_of_mini_is_drawn_for_every_recipe_of_its_card() -> None:
    card = json.loads(MEASURES.read_text())
    rates, gaps = gap_tables(card)
    assert rates["recipe"].iloc[0] == card["default"]
    for recipe, measures in card["recipes"].items():
        mine = rates[(rates["recipe"] == recipe) & (rates["side"] == "harmful")].set_index("label")["value"]
        assert mine["SD"] == measures["refuses_harmful_SD"]["value"] and len(mine) == 5
        assert set(gaps[gaps["recipe"] == recipe]["label"]) == {"SD", "TYPO", "SD_TYPO"}
    assert len(draw_projector_gap(card).axes) == 3
    with pytest.raises(ValueError, match="no projector recipe"):
        gap_tables({"default": "released", "recipes": {}})
