"""The sign test passes, fails and stays undecided where it should, and looks inside single choices only."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from support.probes import planted_choices

from safesteer_interp.errors import InputError
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.signs import SignTest, preferences, sign_test, stratified


def test_sign_test_passes_fails_and_stays_undecided() -> None:
    offered = planted_choices()
    passed = sign_test(offered.states[:, 0], offered)
    assert passed is not None and passed.passed and passed.share.value > 0.95 and passed.p < 0.01
    assert passed.choices == 24 and passed.share.clusters == 12 and set(passed.steps) == {0, 1}
    failed = sign_test(-offered.states[:, 0], offered)
    assert failed is not None and not failed.passed and failed.share.value == pytest.approx(1 - passed.share.value)
    assert failed.reversed == (0, 1) and failed.p < 0.01 and "the wrong way at step 0, 1" in failed.sentence()
    chance = sign_test(np.random.default_rng(0).normal(size=len(offered)), offered)
    assert chance is not None and not chance.passed and 0.3 < chance.share.value < 0.7
    with pytest.raises(InputError, match="not finite"):
        sign_test(np.full(len(offered), np.nan), offered)


def test_a_perfect_probe_passes_however_few_choices_a_form_or_step_has() -> None:
    """Twelve pairs with a choice at CB step 0, one of which also has one at CB step 1 and at SD step 0."""
    rows = [("p0", "CB", 1), ("p0", "SD", 0), *((f"p{i}", "CB", 0) for i in range(12))]
    found = stratified(pd.DataFrame(rows, columns=["pair", "form", "step"]).assign(value=1.0))
    assert (found.value, found.high, found.clusters) == (1.0, 1.0, 12) and found.low == pytest.approx(0.025 ** (1 / 12))
    assert SignTest(found, {}, 14).passed and found.p is not None and found.p < 0.01


def test_few_pairs_pass_nothing() -> None:
    few = planted_choices(pairs=5)
    found = sign_test(few.states[:, 0], few)
    assert found is not None and found.share.value > 0.95 and not found.passed, "five pairs cannot reach 5 %"
    assert sign_test(few.states[:8, 0], few.take(np.arange(len(few)) < 8)) is None, "one pair says nothing"


def test_what_tells_prompts_apart_counts_for_nothing() -> None:
    """A score that is the same for all candidates of a prompt orders none of them, however well it predicts who refuses."""
    offered = planted_choices(sign=0.0)
    of_prompt = (offered.groups % 2).astype(float)
    found = sign_test(of_prompt, offered)
    assert found is not None and found.share.value == 0.5 and not found.passed


def test_one_reversed_step_is_enough_to_fail() -> None:
    offered = planted_choices(pairs=20, steps=3)
    scores = np.where(offered.steps == 1, -1, 1) * offered.states[:, 0]
    found = sign_test(scores, offered)
    assert found is not None and found.share.low > 0.5 and found.p < 0.05 and found.reversed == (1,) and not found.passed


def test_steps_and_forms_count_alike() -> None:
    """Three choices of one form say no more than one of another."""
    scores = np.array([1.0, 0.0] * 3 + [0.0, 1.0])
    refusal = np.array([True, False] * 4)
    names = np.repeat(["a", "b", "c", "d"], 2)
    forms = np.repeat(["CB", "CB", "CB", "SD"], 2)
    offered = Offered(np.zeros((8, 2)), refusal, np.zeros(8, int), names, names, forms, np.arange(8), np.zeros(8))
    assert preferences(scores, offered)["value"].tolist() == [1.0, 1.0, 1.0, 0.0]
    found = sign_test(scores, offered)
    assert found is not None and found.share.value == 0.5


def test_only_contested_choices_count_and_records_come_back() -> None:
    offered = planted_choices()
    all_refuse = Offered(*(getattr(offered, n) for n in ("states",)), np.ones(len(offered), bool), offered.steps, offered.prompts,
                         offered.pairs, offered.forms, offered.tokens, offered.log_probs)  # fmt: skip
    assert not len(all_refuse.contested()) and sign_test(offered.states[:, 0], all_refuse) is None
    found = sign_test(offered.states[:, 0], offered)
    assert found is not None and SignTest.from_dict(found.to_dict()) == found
    assert SignTest.from_dict({"value": 1.0, "p": 0.01, "refusals": 3}) is None, "the test between prompts of earlier versions"


def test_the_spread_is_that_within_a_choice() -> None:
    scores = np.array([0.0, 2.0, 100.0, 102.0])
    offered = planted_choices(pairs=2, steps=1, k=2)
    assert offered.spread(scores) == pytest.approx(np.sqrt(2))
    with pytest.raises(InputError, match="two candidates"):
        planted_choices(pairs=3, steps=1, k=1).spread(np.zeros(3))
    names = np.array(["a", "b"])
    with pytest.raises(InputError, match="`pairs` has 1 entries"):
        Offered(np.zeros((2, 2)), names == "a", np.zeros(2, int), names, names[:1], names, np.zeros(2, int), np.zeros(2))
