"""The three fits, what each of them is blind to, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.probes import planted_states, planted_tokens

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.probes.fits import fit_centred, fit_prompt, fit_token, run_sign_test
from safesteer_interp.probes.tokens import TokenStates


def test_a_probe_that_fails_or_skips_the_sign_test_may_not_guide() -> None:
    states, harmful = planted_states()
    untested = fit_prompt(states, harmful)
    with pytest.raises(UsageError, match="has not been run"):
        untested.require_sign()
    failing = fit_prompt(states, harmful, held_out=planted_tokens(sign=-1))
    with pytest.raises(UsageError, match="failed its sign test"):
        failing.require_sign()
    failing.require_sign(force=True)
    fit_prompt(states, harmful, held_out=planted_tokens()).require_sign()


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
    probe = fit_token(tokens, held_out=planted_tokens(sign=-1, seed=5))
    assert probe.fit_ == "token" and probe.sign_test_.passed
    assert not run_sign_test(fit_prompt(*planted_states()), tokens).passed


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
