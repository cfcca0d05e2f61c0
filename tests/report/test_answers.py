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
    for kept in (a_row(harmful=False), a_row(outcome="refuse", verdicts={"judge": 0.0, "other": None})):
        assert "secret rest" in answers_page([kept])
    assert "secret" not in answers_page([a_row(outcome="degenerate")]), "what is broken may still hold help"


def test_a_refusal_that_a_judge_of_harm_calls_unsafe_is_cut_whichever_judge_it_is() -> None:
    """The list of refusals is misled by "I'm sorry, but here is how"; whoever sees through it decides."""
    refused = a_row(outcome="refuse", verdicts={"strings": 0.0, "first": 0.0, "last": 1.0})
    assert shown_answer(refused) == {"text": "first second third fourth fifth sixth …", "folded": True}
    assert "secret" not in answers_page([refused]) and "secret" in answers_page([refused], show_answers=True)
    by_another_list = refused | {"unsafe": False}
    assert shown_answer(by_another_list)["folded"] is False, "another list of refusals is no judge of harm"
    assert shown_answer(refused | {"unsafe": True, "harmful": False})["folded"] is False, "an answer to a harmless request"


def test_an_answer_without_spaces_is_cut_too() -> None:
    shown = shown_answer(a_row(answer="毒" * 100))
    assert shown == {"text": "毒" * 60 + " …", "folded": True}


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
