"""The four fits, what each of them is blind to, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.probes import planted_choices, planted_states, planted_tokens

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.probes.fits import fit_centred, fit_contrastive, fit_prompt, fit_token, run_sign_test
from safesteer_interp.probes.tokens import TokenStates


def test_a_probe_that_fails_or_skips_the_sign_test_may_not_guide() -> None:
    states, harmful = planted_states()
    untested = fit_prompt(states, harmful)
    with pytest.raises(UsageError, match="has not been run"):
        untested.require_sign()
    failing = fit_prompt(states, harmful, held_out=planted_choices(sign=-1))
    with pytest.raises(UsageError, match="failed its sign test"):
        failing.require_sign()
    failing.require_sign(force=True)
    fit_prompt(states, harmful, held_out=planted_choices()).require_sign()


def test_the_centred_fit_may_not_guide_even_when_forced() -> None:
    states, harmful = planted_states()
    centred = fit_centred(states, harmful, planted_tokens())
    for force in (False, True):
        with pytest.raises(UsageError, match=r'one and the same vector from all candidates of a step.* "prompt", "token" or "contrastive"'):
            centred.require_sign(force)
    offered = planted_choices()
    prompt = fit_prompt(states, harmful)
    mine, theirs = (p.decision_at(offered.states, offered.steps + 1) for p in (centred, prompt))
    for rows in offered.choices():
        np.testing.assert_array_equal(np.argsort(mine[rows]), np.argsort(theirs[rows]))


def test_centring_removes_a_shift_of_the_token_states_that_the_prompt_fit_suffers_from() -> None:
    states, harmful = planted_states()
    shift = np.zeros(24)
    shift[0] = -30  # every generated token falls far on the harmless side
    tokens, held_out = planted_tokens(shift=shift), planted_tokens(shift=shift, seed=9)
    prompt, centred = fit_prompt(states, harmful), fit_centred(states, harmful, tokens)
    assert (prompt.decision_at(held_out.states, held_out.steps) > 0).mean() == 0
    scores = centred.decision_at(held_out.states, held_out.steps)
    assert ((scores > 0) == held_out.refusal).mean() > 0.9
    np.testing.assert_allclose(centred.decision_function(states), prompt.decision_function(states))
    at_one = held_out.at(1)
    np.testing.assert_allclose(
        centred.score_tensor(torch.from_numpy(at_one.states), step=1).numpy(), centred.decision_at(at_one.states, at_one.steps), atol=1e-3
    )


def test_token_fit_prefers_refusals_whatever_the_prompt_fit_does() -> None:
    tokens = planted_tokens(sign=-1)
    probe = fit_token(tokens, held_out=planted_choices(sign=-1))
    assert probe.fit_ == "token" and probe.sign_test_.passed
    assert not run_sign_test(fit_prompt(*planted_states()), planted_choices(sign=-1)).passed


def test_the_contrastive_fit_looks_within_choices_only() -> None:
    """Prompts differ by far more than candidates do; a fit on emitted tokens would see that, differences within a choice do not."""
    offered = planted_choices(pairs=40, between=20.0)
    probe = fit_contrastive(offered, held_out=planted_choices(seed=11), n_components=4)
    assert probe.fit_ == "contrastive" and probe.sign_test_.passed and probe.sign_test_.share.value > 0.95
    assert abs(probe.direction_[0]) > 0.95
    assert probe.spread_ == pytest.approx(offered.spread(probe.decision_at(offered.states, offered.steps + 1)))
    reversed_ = fit_contrastive(planted_choices(pairs=40, sign=-1.0))
    assert reversed_.direction_[0] < -0.95
    never = planted_choices()
    with pytest.raises(InputError, match="there are none"):
        fit_contrastive(never.take(never.refusal))


def test_random_directions_lie_within_the_components() -> None:
    probe = fit_prompt(*planted_states(), n_components=3)
    drawn = probe.random_directions(20, seed=1)
    np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0)
    np.testing.assert_allclose(drawn @ probe.components_.T @ probe.components_, drawn, atol=1e-12)
    np.testing.assert_array_equal(drawn, probe.random_directions(20, seed=1))
    assert np.linalg.matrix_rank(drawn) == 3
    assert np.linalg.matrix_rank(fit_prompt(*planted_states(), n_components="all").random_directions(30)) == 24


def test_fits_refuse_one_class_nan_states_and_missing_tokens() -> None:
    states, harmful = planted_states()
    with pytest.raises(InputError, match="harmful and harmless"):
        fit_prompt(states, np.ones(len(states), bool))
    broken = states.copy()
    broken[2, 3] = np.nan
    with pytest.raises(InputError, match="1 of 120 states"):
        fit_prompt(broken, harmful)
    tokens = planted_tokens()
    nothing = TokenStates(tokens.states[:0], tokens.refusal[:0], tokens.steps[:0], tokens.prompts[:0])
    with pytest.raises(InputError, match="trace step:1"):
        fit_centred(states, harmful, nothing)
    with pytest.raises(InputError, match="`prompts` has 3"):
        TokenStates(tokens.states, tokens.refusal, tokens.steps, tokens.prompts[:3])
    assert len(TokenStates(broken, harmful, np.ones(120, int), np.arange(120)).states) == 119
