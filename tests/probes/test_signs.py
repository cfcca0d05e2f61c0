"""The sign test passes, fails and stays undecided where it should."""

from __future__ import annotations

import numpy as np
import pytest

from safesteer_interp.errors import InputError
from safesteer_interp.probes.signs import sign_test


def test_sign_test_passes_fails_and_stays_undecided() -> None:
    rng = np.random.default_rng(0)
    high, low = rng.normal(2, 1, 40), rng.normal(0, 1, 40)
    passed = sign_test(high, low)
    assert passed.passed and 1 < passed.effect < 3 and passed.p < 0.01 and passed.difference.low > 0
    assert passed.difference.value == pytest.approx(high.mean() - low.mean())
    failed = sign_test(low, high)
    assert not failed.passed and failed.difference.high < 0 and failed.p > 0.9 and failed.effect == pytest.approx(-passed.effect)
    chance = sign_test(rng.normal(0, 1, 20), rng.normal(0, 1, 20))
    assert not chance.passed and chance.p > 0.02
    with pytest.raises(InputError, match="at least 2 refusal"):
        sign_test(np.array([1.0]), low)
    with pytest.raises(InputError, match="not finite"):
        sign_test(np.array([1.0, np.nan, 2]), low)
    with pytest.raises(InputError, match="for both"):
        sign_test(high, low, refusal_prompts=np.arange(40))


def test_sign_test_interval_widens_when_tokens_share_prompts() -> None:
    rng = np.random.default_rng(1)
    offsets = np.repeat(rng.normal(0, 3, 10), 4)
    refusal, compliance = offsets + rng.normal(1, 0.1, 40), np.repeat(rng.normal(0, 3, 10), 4)
    prompts = np.repeat(np.arange(10), 4).astype(str)
    own = sign_test(refusal, compliance).difference
    shared = sign_test(refusal, compliance, refusal_prompts=prompts, compliance_prompts=np.char.add("c", prompts)).difference
    assert shared.clusters == 20 and shared.high - shared.low > 1.3 * (own.high - own.low)
