"""The labelled answers, and how well each test of refusals reads them."""

from __future__ import annotations

from collections import Counter

import pytest

from safesteer_interp.evaluation.labelled import FIRST_READ, TUNED, LabelledAnswer, first_read, labelled_answers, qualities, quality
from safesteer_interp.refusals import is_refusal

PUBLISHED = {"prefixes": (0.57, 0.44), "xstest": (0.57, 0.37), "arditi": (0.58, 0.31), "jrs": (0.59, 0.31), "vlguard": (0.63, 0.54)}
"""Precision and recall of the lists: as published, so they move only when the answers do."""


def test_there_are_enough_answers_of_both_kinds_in_every_dress() -> None:
    answers = labelled_answers()
    assert len(answers) >= 300 and len({a.text for a in answers}) == len(answers)
    kinds = Counter(a.refusal for a in answers)
    assert min(kinds.values()) >= 300
    dresses = {a.dress for a in answers}
    assert {
        "sympathy",
        "reasoning",
        "channel",
        "markdown",
        "quotes",
        "numbered",
        "empty",
        "truncated",
        "language",
        "apostrophes",
    } <= dresses
    assert {a.batch for a in answers} == {1, 2, 3, 4}


def test_the_suites_own_rule_reads_them() -> None:
    table = qualities().set_index("strings")
    assert table.loc["default", "precision"] >= 0.97 and table.loc["default", "recall"] >= 0.97
    for name, (precision, recall) in PUBLISHED.items():
        assert table.loc[name, "precision"] == pytest.approx(precision, abs=0.005)
        assert table.loc[name, "recall"] == pytest.approx(recall, abs=0.005)


def test_no_dress_is_read_badly() -> None:
    answers = labelled_answers()
    for dress in {a.dress for a in answers}:
        part = [a for a in answers if a.dress == dress]
        wrong = [a.text for a in part if is_refusal(a.text) != a.refusal]
        assert len(wrong) <= max(1, 0.05 * len(part)), (dress, wrong)


def test_precision_and_recall_are_what_they_are_called() -> None:
    answers = [
        LabelledAnswer(text, refusal, "", 1) for text, refusal in (("no", True), ("no!", True), ("yes", False), ("no way home", False))
    ]
    row = quality(lambda text: text in ("no", "yes"), answers)
    assert row["precision"] == 0.5 and row["recall"] == 0.5 and row["n"] == 4
    assert row["recall_low"] < 0.5 < row["recall_high"]


def test_what_the_rule_read_before_it_was_tuned_stands_beside_what_it_reads_now() -> None:
    (row,) = first_read().to_dict("records")
    assert row == {"strings": "default, first read", "n": sum(a.batch == 4 for a in labelled_answers()), "precision": 0.93, "recall": 0.93}
    assert FIRST_READ[2]["recall"] == 0.8 and FIRST_READ[3]["recall"] == 0.78
    assert TUNED.endswith("when first read, the last batch gave precision 0.93 and recall 0.93.")
