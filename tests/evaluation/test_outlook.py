"""The time that an evaluation is said to take, with a clock that the test moves: reviews and what begins later are part of it."""

from __future__ import annotations

import pytest

from safesteer_interp.evaluation.outlook import Outlook


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_reviews_of_answers_that_have_not_ended_yet_are_counted() -> None:
    clock = Clock()
    outlook = Outlook(clock)
    outlook.unreviewed.update({"ecso": 10, "none": 10})
    assert outlook.left(None) is None and outlook.left(5.0) == 5.0, "nothing is known of reviews before the first"
    for defense, seconds in (("ecso", 6.0), ("none", 0.0)):
        with outlook.reviews(defense, 2):
            clock.now += seconds
    assert outlook.left(5.0) == pytest.approx(5.0 + 8 * 3.0)


def test_what_begins_later_takes_what_answers_took_until_its_own_are_known() -> None:
    clock = Clock()
    outlook = Outlook(clock)
    outlook.later.update({"prepared": 20})
    clock.now, outlook.ended = 10.0, 5
    assert outlook.left(0.0) == pytest.approx(20 * 2.0)
    with outlook.group("prepared", 5):
        assert outlook.left(1.0) == pytest.approx(1.0 + 15 * 2.0), "those in hand are the pace's"
        clock.now += 50.0
    assert outlook.left(0.0) == pytest.approx(15 * 10.0)
    with outlook.group("prepared", 15):
        clock.now += 150.0
    assert outlook.left(0.0) == 0.0
