"""Conclusions are chosen by verdicts and filled from claims; what was not measured is missing; the README says what they say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.results import claim, result

from safesteer_interp.errors import InputError
from safesteer_interp.files import read_json
from safesteer_interp.report.claims import seen
from safesteer_interp.report.conclusions import conclude
from safesteer_interp.report.questions import QUESTIONS, Point, Question
from safesteer_interp.report.readme import BEGIN, END, PICTURE_BEGIN, PICTURE_END, sentence_line, short_form, takeaway, write_readme
from safesteer_interp.runner.claim_record import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[2]
ASKED = (
    Question("q", "Is it?", (Point("finding", "c", "It is.", "It is not.", "Nobody knows."),)),
    Question("own", "And else?", (Point("other", most=1),)),
)


ACROSS = {"undecided": {"reason": 'the interval reaches across the edge of "above 0.5 AUROC"'}}
"""The reason that an interval gives by itself."""


def told(verdict: str, **more: Any) -> dict[str, Any]:
    return {"finding": {"c": seen(claim(verdict, **ACROSS.get(verdict, {})))}, **more}


@pytest.mark.parametrize(("verdict", "words"), [("supported", "It is."), ("contradicted", "It is not."), ("undecided", "Nobody knows.")])
def test_the_verdict_chooses_the_sentence_and_the_claim_its_numbers(verdict: str, words: str) -> None:
    sentence = conclude(told(verdict), questions=ASKED)[0].sentences[0]
    assert (sentence.text, sentence.verdict, sentence.finding, sentence.claim) == (words, verdict, "finding", "c")
    assert sentence.numbers == f"0.90 [0.80, 1.00] AUROC; claimed: above 0.50, n = 40, 20 pairs, {verdict}"
    at_zero = conclude({"finding": {"c": seen(claim(verdict, threshold=0.0, **ACROSS.get(verdict, {})))}}, questions=ASKED)[0].sentences[0]
    assert at_zero.shown == "0.90 [0.80, 1.00] AUROC", "the sentence itself says on which side of zero"


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("random direction alone reaches as far; a value of 0.8 AUROC would have been found with a probability of 27% only", None),
        (
            "the whole interval lies above 0.5 AUROC, but p = 0.23 over all claims of this finding",
            "p = 0.23 over all claims of this finding",
        ),
        ("the difference to harmful twins is not clear of 0", None),
        ("there is no interval", None),
        ('the interval reaches across the edge of "above 0.5 AUROC"; a value of 0.8 AUROC would have been found', ""),
    ],
)
def test_an_open_verdict_says_what_keeps_it_open_where_the_interval_does_not_show_it(
    reason: str, cause: str | None, tmp_path: Path
) -> None:
    cause = reason.partition(";")[0] if cause is None else cause
    open_claim = seen(claim("undecided", reason=reason))
    sentence = conclude({"finding": {"c": open_claim}}, questions=ASKED)[0].sentences[0]
    assert sentence.cause == open_claim["cause"] == cause
    assert sentence.numbers.endswith(f"20 pairs, undecided: {cause}" if cause else "20 pairs, undecided")
    assert sentence_line(sentence, "", {"finding": "finding/m"}).endswith(
        f"; **undecided**: {cause}, [finding](finding/m))." if cause else "; **undecided**, [finding](finding/m))."
    )
    assert sentence.alone == (f"Nobody knows ({cause})." if cause else "Nobody knows.")
    for verdict in ("supported", "contradicted"):
        assert seen(claim(verdict, reason=reason))["cause"] == ""


def test_a_comparison_says_on_which_side_and_of_what() -> None:
    asked = (Question("q", "Is it?", (Point("finding", "c", "It is.", "It lets through {compared}.", "Open; through {compared}."),)),)

    def words(verdict: str, value: float, difference_to: str = "CoCA") -> str:
        made = claim(verdict, difference_to=difference_to)
        made["estimate"]["value"] = value
        return conclude({"finding": {"c": seen(made)}}, questions=asked)[0].sentences[0].text

    assert words("contradicted", 0.33) == "It lets through more than CoCA."
    assert words("undecided", -0.1) == "Open; through fewer than CoCA."
    assert words("undecided", 0.0) == "Open; through as many as CoCA."
    assert words("undecided", 0.1, "") == "Open; through more than what it is held against."


def test_what_is_missing_is_said_to_be() -> None:
    nothing, other, _ = conclude({}, questions=ASKED)
    assert nothing.sentences[0].verdict == other.sentences[0].verdict == "missing"
    assert "finding should answer this; it was not measured" in nothing.sentences[0].text
    renamed = conclude({"finding": {}}, questions=ASKED)[0].sentences[0]
    assert renamed.verdict == "missing" and 'its claim "c" was not measured' in renamed.text


def test_a_finding_without_a_named_claim_speaks_in_its_own_words_decided_ones_first() -> None:
    claims = {"a": seen(claim("undecided", id="a")), "b": seen(claim("contradicted", id="b", statement="All is well.")),
              "s": seen(claim(id="s", kind="sanity"))}  # fmt: skip
    (sentence,) = conclude({"other": claims}, questions=ASKED)[1].sentences
    assert sentence.text == "It does not hold that: All is well." and sentence.claim == "b"


def test_it_says_how_many_verdicts_hold_on_every_other_model() -> None:
    there: tuple[dict[str, Any], ...] = (told("supported"), told("undecided"), told("contradicted"), {})
    same, open_there, turned, empty = (conclude(told("supported"), {"m": other}, ASKED)[-1].sentences[0] for other in there)
    assert (
        same.text == "On m, the one claim of these conclusions that was measured there has the same verdict."
        and same.verdict == "supported"
    )
    assert open_there.verdict == "undecided" and "finding, c (supported here, undecided there)" in open_there.text
    assert "On m, the one claim of these conclusions that was measured there has another verdict." in turned.text
    assert turned.verdict == "contradicted" and "finding, c (supported here, contradicted there)" in turned.text
    assert "none of the claims of these conclusions was measured" in empty.text
    all_four = conclude(told("supported"), dict(zip("abcd", there, strict=True)), ASKED)[-1].sentences
    assert [s.text[:4] for s in all_four] == ["On c", "On b", "On d", "On a"], "the worst first"
    assert conclude(told("supported"), {}, ASKED)[-1].sentences[0].text == "Only one model was run."


def test_every_point_has_a_wording_for_each_verdict() -> None:
    for point in (p for q in QUESTIONS for p in q.points):
        words = [getattr(point, f.name) for f in dataclasses.fields(point) if f.name in ("supported", "contradicted", "undecided")]
        assert all(words) if point.claim else not any(words)
        assert len(set(words)) == (3 if point.claim else 1)


OPPOSITES = ("not", "less", "lower", "fewer", "worse", "farther", "away", "more", "no ", "costs", "least", "used")
"""Words by which one sentence says the opposite of another."""


@pytest.mark.parametrize("verdict", ["supported", "contradicted", "undecided"])
@pytest.mark.parametrize("model", ["mini", "somebody/else-7B", "planted"])
def test_whatever_the_verdicts_and_the_model_every_sentence_says_its_verdict_and_number(verdict: str, model: str) -> None:
    claims: dict[str, dict[str, Any]] = {}
    for point in (p for q in QUESTIONS for p in q.points):
        claims.setdefault(point.finding, {})[point.claim] = seen(claim(verdict, id=point.claim, threshold=0.0))
    answers = conclude(claims, {model: claims})
    told_of = [s for a in answers[:-1] for s in a.sentences]
    assert len(told_of) == sum(len(q.points) for q in QUESTIONS) and {s.verdict for s in told_of} == {verdict}
    for sentence in told_of:
        assert sentence.text.endswith(".") and sentence.text[0].isupper() and "mini" not in sentence.text and sentence.shown
        assert (verdict == "undecided") == any(w in sentence.text for w in ("open", "not shown to")), sentence.text
        assert not any(c.isdigit() for c in sentence.text.replace("10 points", "")), "numbers come from claims"
    assert answers[-1].sentences[0].text.startswith(f"On {model}, {len(told_of)} of the {len(told_of)} claims")


def test_what_is_contradicted_is_told_as_the_opposite() -> None:
    for point in (p for q in QUESTIONS for p in q.points):
        assert any((word in point.contradicted) != (word in point.supported) for word in OPPOSITES), point


def test_every_claim_the_conclusions_name_is_one_of_its_finding() -> None:
    """Of the findings among the committed results; a claim that was renamed would leave a hole in the conclusions."""
    named = [p for q in QUESTIONS for p in q.points if p.claim]
    records = {path.parents[1].name: read_json(path) for path in (ROOT / "figures").glob("*/mini/claims.json")}
    current = {finding: {c["id"] for c in r["claims"]} for finding, r in records.items() if r["schema"] == SCHEMA_VERSION}
    assert {p.finding for p in named} <= set(current), "every finding that conclusions are drawn from has a committed result of this schema"
    assert [p for p in named if p.claim not in current[p.finding]] == []


def test_the_readme_says_what_the_committed_results_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    held = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert held == short_form(ROOT / "figures").strip(), "run `safesteer report --readme README.md`"
    picture = text.partition(PICTURE_BEGIN)[2].partition(PICTURE_END)[0].strip()
    assert picture == takeaway(ROOT / "figures").strip() and picture.startswith("**") and picture.count("**") == 2


def test_only_the_marked_part_of_a_readme_is_written(tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    place = result(figures, "prefill_separability", "mini")
    record = json.loads((place / "claims.json").read_text())
    (place / "claims.json").write_text(json.dumps({**record, "claims": [claim(id="separable_text")]}))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nstale words\n{END}\nafter\n")
    assert write_readme(readme, figures) and not write_readme(readme, figures)
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n") and "stale words" not in text
    assert "are told well from harmless ones (0.90 [0.80, 1.00] AUROC; claimed: above 0.50, n = 40, 20 pairs; **supported**" in text
    assert "(figures/prefill_separability/mini)" in text and "was not measured on this model" in text
    readme.write_text(f"{PICTURE_BEGIN}\nstale\n{PICTURE_END}\n{BEGIN}\n{END}\n")
    assert write_readme(readme, figures) and "was not measured on this model" in readme.read_text().partition(PICTURE_END)[0]
    assert "stale" not in readme.read_text()
    (tmp_path / "docs").mkdir()
    other = tmp_path / "docs" / "mine.md"
    other.write_text(f"{BEGIN}\n{END}\n")
    assert write_readme(other, figures) and "(../figures/prefill_separability/mini)" in other.read_text()
    for text, words in ((f"{PICTURE_BEGIN}\n{BEGIN}\n{END}\nmine\n".encode(), "without"), (b"\xff\xfe", "is not UTF-8 text")):
        readme.write_bytes(text)
        with pytest.raises(InputError, match=words):
            write_readme(readme, figures)
        assert readme.read_bytes() == text, "what is the user's stays"
    readme.write_text("no marks")
    with pytest.raises(InputError, match="has no place for the conclusions"):
        write_readme(readme, figures)
    with pytest.raises(InputError, match="is not readable"):
        write_readme(tmp_path / "none.md", figures)


def test_headlines_say_what_their_claims_measure() -> None:
    by_claim = {point.claim: point for q in QUESTIONS for point in q.points}
    assert "than no edit and than random vectors do" in by_claim["lowers_not_refused"].supported, "the number is the first difference"
    told = by_claim["decoder_makes_harm_typo"]
    assert all("the mean of what the projector" in words for words in (told.supported, told.contradicted, told.undecided))
    restored = by_claim["last_token_restores_sd"]
    assert all("log-odds of refusal" in words for words in (restored.supported, restored.contradicted, restored.undecided))
    assert {"answers_refuse_again_sd", "answers_refuse_again_typo"} <= set(by_claim), "what becomes of the answers is told by itself"
    least = by_claim["safesteer_lets_least_through"]
    assert "{compared}" in least.contradicted and "{compared}" in least.undecided
