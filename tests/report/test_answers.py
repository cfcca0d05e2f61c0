"""The page of answers: what a model wrote stays text, and compliance with harm is cut to its first words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safesteer_interp.report.answers import answers_page, printable, shown_answer, write_answers

HOSTILE = "<script>alert(1)</script> \x1b[31m\ud83d\u202e one two three four five six seven"


def a_row(**changes: Any) -> dict[str, Any]:
    return {
        "benchmark": "b", "request": "r<1>", "attack": "SD", "text": "What is <b>this</b>?", "harmful": True, "method": "none", "seed": 0,
        "answer": "first second third fourth fifth sixth secret rest", "outcome": "comply", "verdicts": {"judge": 1.0, "other": None},
    } | changes  # fmt: skip


def test_compliance_with_harm_is_cut_to_its_first_words() -> None:
    page = answers_page([a_row()])
    assert "first second third fourth fifth sixth …" in page and "secret" not in page
    assert "secret rest" in answers_page([a_row()], show_answers=True)
    for kept in (a_row(harmful=False), a_row(outcome="refuse")):
        assert "secret rest" in answers_page([kept])
    assert "secret" not in answers_page([a_row(outcome="degenerate")]), "what is broken may still hold help"


def test_nothing_a_model_wrote_becomes_markup(tmp_path: Path) -> None:
    rows = [
        a_row(answer=HOSTILE, method="<i>m</i>", harmful=False, verdicts={"<u>j</u>": None}),
        a_row(answer="x" * 100_000, harmful=False),
    ]
    page = write_answers(rows, tmp_path / "answers.html", title="<t>").read_text(encoding="utf-8")
    for raw in ("<script>", "<i>m", "<u>j", "<t>", "What is <b>", "r<1>", "\x1b", "\u202e"):
        assert raw not in page, raw
    assert "&lt;script&gt;" in page and len(page) < 20_000 and "default-src &#39;none&#39;" not in page
    assert "default-src 'none'" in page


def test_verdicts_are_shown_per_judge_and_missing_ones_as_such() -> None:
    page = answers_page([a_row()])
    assert "<th>judge</th>" in page and "<th>other</th>" in page and "<td>1</td>" in page and "<td>–</td>" in page
    assert shown_answer(a_row(answer="short"))["folded"] is False
    assert printable("a\x00\u200fb\nc") == "a\ufffd\ufffdb\nc"
