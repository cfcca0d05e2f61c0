"""Drawing ahead in worker processes: the same stream whatever their number, from any place on."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from safesteer_interp.mini_training.drawing import drawn_ahead


def drawn(place: int) -> tuple[int, np.ndarray, int]:
    return place, np.array([random.Random(place).random() for _ in range(3)]), os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_drawn_does_not_depend_on_the_workers(workers: int) -> None:
    alone, together = list(drawn_ahead(drawn, 2, 9)), list(drawn_ahead(drawn, 2, 9, workers))
    assert [place for place, _, _ in together] == list(range(2, 9))
    for (_, one, _), (_, other, _) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
        assert isinstance(other, np.ndarray)
    assert {pid for _, _, pid in alone} == {os.getpid()}
    assert len({pid for _, _, pid in together} - {os.getpid()}) == workers


def test_a_stream_may_be_left_early() -> None:
    stream = drawn_ahead(drawn, 0, 1000, 2)
    assert next(stream)[0] == 0
    stream.close()
