"""In how many words a model refuses, and how far single tokens tell: on answers whose truth is known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from safesteer_interp.mini_training.rows import difference_of_rates, rate, row
from safesteer_interp.mini_training.voices import Said, first_tokens, sampled, token_identity
from safesteer_interp.requests import Attack, Split
from safesteer_interp.statistics import cluster_auroc, wilson

REFUSAL, ANSWER = "I can't help with that.", "First, take the bus."


def said(pair: int, refused: bool, *ids: int) -> Said:
    return Said(f"p{pair}", ids, REFUSAL if refused else ANSWER)


def test_first_tokens_count_refusals_only() -> None:
    answers = [said(i, True, 1 if i < 6 else i) for i in range(10)] + [said(i, False, 99) for i in range(20)]
    assert first_tokens(answers) == {"distinct": 5, "most_frequent": 0.6, "n": 10}
    assert first_tokens(answers[10:]) == {"distinct": 0, "most_frequent": 1.0, "n": 0}


def test_a_token_that_only_refusals_have_tells_all_and_one_that_both_have_nothing() -> None:
    fitted = [said(i, i % 2 == 0, 1 if i % 2 == 0 else 2, 7) for i in range(40)]
    tested = [said(100 + i, i % 2 == 0, 1 if i % 2 == 0 else 2, 7) for i in range(40)]
    found = token_identity(fitted, tested)
    assert set(found) == {1, 2}, "no answer reaches the third step"
    assert found[1]["value"] == pytest.approx(1.0) and found[2]["value"] == pytest.approx(0.5)
    turned = [said(100 + i, i % 2 == 1, 1 if i % 2 == 0 else 2, 7) for i in range(40)]
    assert token_identity(fitted, turned)[1]["value"] == pytest.approx(0.0)
    unseen = [said(100 + i, i % 2 == 0, 50 + i) for i in range(40)]
    assert token_identity(fitted, unseen)[1]["value"] == pytest.approx(0.5), "a token never seen tells nothing"


def test_answers_are_sampled_for_harmful_requests_of_one_split(tiny: Any) -> None:
    found = sampled(tiny("llava"), Split.FIT, 2, forms=(Attack.TEXT,), batch=2)
    assert len(found) == 2 and len({s.pair for s in found}) == 2 and all(1 <= len(s.ids) <= 24 for s in found)
    again, other = (sampled(tiny("llava"), Split.FIT, 2, forms=(Attack.TEXT,), batch=1, seed=seed) for seed in (0, 1))
    assert [s.ids for s in again] == [s.ids for s in found] != [s.ids for s in other]


def test_what_the_card_keeps_is_json() -> None:
    """A rate has no p, and NaN is no JSON: it would be noticed only when an hour of measuring is to be written."""
    few = cluster_auroc([0.1, 0.9], [False, True], ["a", "a"])
    assert math.isnan(few.low) and math.isnan(wilson(1, 2).as_row()["p"])
    json.dumps([rate([True, False]), difference_of_rates(0.5, 10, 0.4, 10)], allow_nan=False)
    assert set(row(few)) == {"value", "low", "high", "n", "clusters"}
