"""StepCentring: scikit-learn's own checks, and the mean of the nearest earlier step."""

from __future__ import annotations

import numpy as np
import pytest
from support.probes import failed_checks

from safesteer_interp.errors import InputError
from safesteer_interp.probes.centring import StepCentring


def test_step_centring_passes_every_check_of_scikit_learn() -> None:
    assert failed_checks(StepCentring()) == []


def test_step_centring_takes_the_nearest_earlier_step() -> None:
    states = np.array([[0.0], [2.0], [10.0], [20.0]])
    centring = StepCentring().fit(states, steps=np.array([1, 1, 3, 6]))
    assert [centring.mean_at(step)[0] for step in (0, 1, 2, 3, 5, 6, 40)] == [1, 1, 1, 10, 10, 20, 20]
    np.testing.assert_allclose(centring.transform(states, steps=np.array([1, 2, 4, 9]))[:, 0], [-1, 1, 0, 0])
    with pytest.raises(InputError, match="one decoding step per state"):
        centring.transform(states, steps=np.array([1]))
