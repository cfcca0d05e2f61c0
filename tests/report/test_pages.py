"""The gallery's pages show everything, escape everything, ask no network, and lead to files that are there."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import pytest
from support.results import claim, result

from safesteer_interp.errors import InputError, SafeSteerWarning
from safesteer_interp.report.pages import SHARED, build
from safesteer_interp.report.readme import overview
from safesteer_interp.report.records import collect_findings
from safesteer_interp.report.results import Results
from safesteer_interp.report.tables import FEW_NOTE


class Page(HTMLParser):
    """Elements, references and text of a page; complains about tags that do not match."""

    VOID = ("meta", "img", "input", "br", "link", "hr", "rect", "line", "circle", "source")

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
def figures(tmp_path: Path) -> Path:
    result(tmp_path, "layer_choice", "mini", order=2)
    result(tmp_path, "prefill", "mini", order=1)
    result(tmp_path, "prefill", "mini@figstep", dataset="figstep", order=1)
    result(tmp_path, "prefill", "planted", model="planted", dataset="planted", order=1)
    skipped = tmp_path / "prefill" / "words"
    skipped.mkdir()
    about = {"id": "prefill", "title": "Title of prefill", "question": "Is it so?", "replicates": "", "cites": [], "order": 1}
    (skipped / "skipped.json").write_text(json.dumps({"analysis": about, "reason": "the model takes text only"}))
    build(tmp_path)
    return tmp_path


def pages(figures: Path) -> dict[Path, Page]:
    found = {path: Page(path.read_text()) for path in sorted(figures.rglob("*.html"))}
    assert all(not page.open for page in found.values())
    return found


def test_there_is_a_page_for_each_finding_and_each_known_answer_check(figures: Path) -> None:
    assert {path.relative_to(figures).as_posix() for path in pages(figures)} == {
        "index.html", "replication.html", "models.html", "glossary.html", "layer_choice/index.html", "prefill/index.html",
        "prefill/known-answer.html",
    }  # fmt: skip


@pytest.mark.parametrize("change", [{"order": {}}, {"id": ["prefill"]}, {"cites": 3}, {"question": None}])
def test_a_record_with_a_field_of_another_kind_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    place = result(tmp_path, "prefill", "mini", order=1)
    record = json.loads((place / "provenance.json").read_text())
    record["analysis"].update(change)
    (place / "provenance.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"prefill.mini: its records are not as `safesteer run` writes them .*run the analysis again"):
        build(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"verdict": "maybe"}, {"statement": None}, {"unit": 3}, {"controls": [{**claim()["controls"][0], "kind": "other"}]}, {"estimate": {}}],
)
def test_a_claim_as_no_run_writes_it_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    place = result(tmp_path, "prefill", "mini", order=1)
    for record in (claim(**change), {k: v for k, v in claim().items() if k != next(iter(change))}):
        (place / "claims.json").write_text(json.dumps({"scope": "", "model": "mini", "dataset": "bundled", "claims": [record]}))
        with pytest.raises(InputError, match=r"prefill.mini: its records are not as `safesteer run` writes them"):
            build(tmp_path)


def test_nothing_of_the_data_becomes_markup(figures: Path) -> None:
    for page in pages(figures).values():
        assert [Path(a["src"] or "").name for t, a in page.tags if t == "script"] == ["gallery.js"], "the gallery's own"
        assert not [t for t, a in page.tags if t == "style" or "style" in a], "and no style of a page's own"
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert '<script>alert("x")</script>' in pages(figures)[figures / "prefill" / "index.html"].words, "it is shown as text"
    assert "<script>" not in (figures / "README.md").read_text()


def test_no_page_asks_the_network_and_every_link_leads_to_a_place_that_is_there(figures: Path) -> None:
    found = pages(figures)
    ids = {path: {a["id"] for _, a in page.tags if "id" in a} for path, page in found.items()}
    for path, page in found.items():
        for tag, attributes in page.tags:
            for source in filter(None, (attributes.get("src"), attributes.get("srcset"))):
                assert (path.parent / source).is_file(), source
            target = attributes.get("href") or ""
            if target.startswith("https://arxiv.org/abs/") or not target:
                continue
            file, place = urldefrag(target)
            led = (path.parent / file).resolve() if file else path
            assert tag == ("link" if led.suffix == ".css" else "a") and led.is_file(), target
            assert not place or place in ids[led], target
        policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy == "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; script-src 'self' file:"


def test_style_and_script_lie_beside_the_pages_once(figures: Path) -> None:
    assert [path.relative_to(figures).as_posix() for kind in ("css", "js") for path in figures.rglob(f"*.{kind}")] == [*SHARED]
    (figures / "gallery.css").write_text("/* somebody's own */")
    with pytest.warns(SafeSteerWarning, match=r"gallery\.css was not written by this suite"):
        build(figures)
    assert (figures / "gallery.css").read_text() == "/* somebody's own */"


def test_ids_are_unique_and_pictures_have_words(figures: Path) -> None:
    for page in pages(figures).values():
        ids = [a["id"] for _, a in page.tags if "id" in a]
        assert len(set(ids)) == len(ids)
        assert all(a.get("alt") for t, a in page.tags if t == "img")


def test_findings_come_in_order_with_the_fixture_apart_and_stamped(figures: Path) -> None:
    findings, checks = collect_findings(figures)
    assert [f.id for f in findings] == ["prefill", "layer_choice"] and [f.id for f in checks] == ["prefill"]
    assert [e.name for e in findings[0].entries] == ["mini", "mini on figstep", "words"]
    assert all(e.known_answer for f in checks for e in f.entries)
    check, first = (pages(figures)[figures / name] for name in ("prefill/known-answer.html", "index.html"))
    assert "known-answer fixture: proves machinery, not a finding" in check.words and "Scope planted" in check.words
    assert first.words.index("Known-answer checks", first.words.index("Clear")) > first.words.index("Title of layer_choice")


def test_a_finding_says_why_something_is_missing_and_where_the_rest_of_a_table_is(figures: Path) -> None:
    words = pages(figures)[figures / "prefill" / "index.html"].words
    assert "Not measured here: the model takes text only" in words
    assert "The first 150 of 200 rows" in words
    assert "replicates SafeSteer Fig. 7" in words
    assert "mini on figstep" in words and "Models compared" in words


def test_counts_carry_the_name_of_what_is_counted(tmp_path: Path) -> None:
    place = result(tmp_path, "prefill", "mini")
    estimate = {**claim()["estimate"], "clusters": 4}
    spread = {**estimate, "kind": "spread", "clusters": 40, "low": 0.2, "high": 0.6}
    few = claim(estimate=estimate, clusters="random starts", controls=[{"name": "length", "kind": "null", "estimate": spread}])
    (place / "claims.json").write_text(json.dumps({"scope": "", "model": "mini", "dataset": "bundled", "claims": [few]}))
    (place / "table.csv").write_text("value,low,high,n,clusters\n0.9,0.8,1.0,8,4\n")
    build(tmp_path)
    words = pages(tmp_path)[place.parent / "index.html"].words
    assert "n = 40, 4 random starts (few)" in words and "4 pairs" not in words
    assert "null control, length: 0.90 [0.20, 0.60] (central 95 % of draws)" in words
    assert "0.90 [0.80, 1.00]†" in words and FEW_NOTE in words


def test_a_reason_is_said_without_a_double_negative(tmp_path: Path) -> None:
    place = result(tmp_path, "prefill", "mini")
    record = claim("contradicted", reason="the whole interval lies outside of above 0.95 AUROC")
    (place / "claims.json").write_text(json.dumps({"scope": "", "model": "mini", "dataset": "bundled", "claims": [record]}))
    build(tmp_path)
    assert "The whole interval lies below 0.95 AUROC." in pages(tmp_path)[place.parent / "index.html"].words


def test_results_of_before_claims_had_kinds_are_shown(tmp_path: Path) -> None:
    place = result(tmp_path, "prefill", "mini")
    new = ("kind", "source", "printed", "p", "p_holm", "clusters_missing", "clusters", "difference_to", "effect")
    old = {k: v for k, v in claim().items() if k not in new}
    control = {"name": "length", "null": False, "estimate": old["estimate"]}
    (place / "claims.json").write_text(
        json.dumps({"scope": "", "model": "mini", "dataset": "bundled", "claims": [{**old, "controls": [control]}]})
    )
    build(tmp_path)
    assert "for comparison, length: 0.90 [0.80, 1.00]" in pages(tmp_path)[place.parent / "index.html"].words


def test_the_pages_are_the_same_when_built_again_and_pages_of_findings_that_are_gone_go(figures: Path) -> None:
    first = {path: path.read_bytes() for path in pages(figures)}
    for path in figures.glob("*/*/provenance.json"):
        record = json.loads(path.read_text())
        record["run"] = {"finished": "2027-01-01", "seconds": 99.0}
        path.write_text(json.dumps(record))
    build(figures)
    assert {path: path.read_bytes() for path in pages(figures)} == first
    own = figures / "prefill" / "notes.html"
    own.write_text("<p>somebody's own")
    for path in (figures / "prefill" / "planted").iterdir():
        path.unlink()
    build(figures)
    assert not (figures / "prefill" / "known-answer.html").exists() and own.is_file()


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result below"):
        build(tmp_path)
    (result(tmp_path, "prefill", "mini") / "claims.json").write_text("{")
    with pytest.raises(InputError, match=r"claims\.json is not readable"):
        build(tmp_path)


def test_a_narrow_page_gets_the_figure_of_a_column(figures: Path) -> None:
    place = figures / "prefill" / "mini"
    (place / "figure-column.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    build(figures)
    page = pages(figures)[figures / "prefill" / "index.html"]
    assert [a["srcset"] for t, a in page.tags if t == "source"] == ["../prefill/mini/figure-column.svg"]
    assert sum(t == "img" and a["src"] == "../prefill/mini/figure.svg" for t, a in page.tags) == 1
    assert not [a for t, a in page.tags if t == "img" and "column" in str(a["src"])], "and is no figure of its own"


def test_a_page_that_is_not_ours_is_left_alone_and_said(figures: Path) -> None:
    ours = (figures / "index.html").read_text()
    (figures / "README.md").write_text("# mine\n")
    (figures / "prefill" / "index.html").write_text("<html>mine</html>")
    (figures / "index.html").write_text(ours.replace("Title of prefill", "Old title"))
    with pytest.warns(SafeSteerWarning, match="was not written by this suite and is left as it is") as said:
        build(figures)
    named = {str(w.message).split(" was not")[0] for w in said if issubclass(w.category, SafeSteerWarning)}
    assert named == {str(figures / "README.md"), str(figures / "prefill" / "index.html")}
    assert (figures / "README.md").read_text() == "# mine\n" and (figures / "prefill" / "index.html").read_text() == "<html>mine</html>"
    assert (figures / "index.html").read_text() == ours, "what is ours is written anew"


def test_two_checkpoints_of_one_name_are_two_models_with_a_place_each(tmp_path: Path) -> None:
    result(tmp_path, "prefill", "mini")
    for analysis in ("prefill", "lens"):
        result(tmp_path, analysis, "checkpoint-500-11111111", model="checkpoint-500", fingerprint="a" * 64)
        result(tmp_path, analysis, "checkpoint-500-22222222", model="checkpoint-500", fingerprint="b" * 64, verdict="contradicted")
    result(tmp_path, "prefill", "checkpoint-500-11111111@mine-33333333", model="checkpoint-500", dataset="mine.jsonl")
    found = Results(tmp_path)
    first, second, other = "checkpoint-500-11111111", "checkpoint-500-22222222", "checkpoint-500 on mine.jsonl"
    assert found.models == ["mini", first, second, other], "what has a name of its own keeps it"
    assert found.claims(first)["lens"]["c"]["verdict"] == "supported" and found.claims(second)["lens"]["c"]["verdict"] == "contradicted"
    assert found.places(second) == {"lens": f"lens/{second}", "prefill": f"prefill/{second}"}
    assert found.places("mini") == {"prefill": "prefill/mini"}
    assert found.slug("lens", first) != found.slug("lens", second)
    assert found.measured_in(second, "b" * 64) == second and found.measured_in(second, "a" * 64) == ""
    build(tmp_path)
    shown = pages(tmp_path)[tmp_path / "prefill" / "index.html"]
    assert [a["data-entry"] for t, a in shown.tags if t == "section" and a.get("class") == "entry"] == ["mini", first, second, other]


def test_thinking_on_and_off_data_of_one_name_and_older_weights_are_told_apart(tmp_path: Path) -> None:
    for way in ("on", "off"):
        result(tmp_path, "prefill", f"org--m-thinking-{way}", model="org/m")
    for place in ("1", "2"):
        result(tmp_path, "prefill", f"n@mine-{place * 8}", model="n", dataset="mine.jsonl")
    result(tmp_path, "prefill", "ckpt-44444444", model="ckpt", fingerprint="a" * 64)
    result(tmp_path, "lens", "ckpt-44444444", model="ckpt", fingerprint="b" * 64)
    assert Results(tmp_path).models == [
        "ckpt, weights bbbbbbbb", "ckpt, weights aaaaaaaa", "org--m-thinking-off", "org--m-thinking-on", "n on mine-11111111",
        "n on mine-22222222",
    ]  # fmt: skip


def test_what_failed_stands_after_what_was_measured_also_in_a_folder_of_two_weights(tmp_path: Path) -> None:
    """mini's weights changed between two findings, and a third failed: its note says of which weights nothing."""
    result(tmp_path, "prefill", "mini", fingerprint="a" * 64)
    result(tmp_path, "lens", "mini", fingerprint="b" * 64)
    note = json.loads((tmp_path / "lens" / "mini" / "provenance.json").read_text())["analysis"] | {"id": "routes"}
    (tmp_path / "routes" / "mini").mkdir(parents=True)
    (tmp_path / "routes" / "mini" / "failed.json").write_text(json.dumps({"analysis": note, "reason": "disk full"}))
    assert Results(tmp_path).models == ["mini, weights bbbbbbbb", "mini, weights aaaaaaaa", "mini"]
    build(tmp_path)
    assert "disk full" in (tmp_path / "index.html").read_text() + (tmp_path / "routes" / "index.html").read_text()


def test_the_overview_leads_to_the_folder_of_a_checkpoint(tmp_path: Path) -> None:
    result(tmp_path, "prefill", "checkpoint-500-11111111", model="checkpoint-500")
    text = overview(Results(tmp_path))
    assert "On checkpoint-500;" in text and "[prefill](prefill/checkpoint-500-11111111)" in text
