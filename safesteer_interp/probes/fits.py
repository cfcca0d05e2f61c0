"""Three ways to fit the probe that guides decoding, compared everywhere: `prompt`, `centred` and `token`.

The paper fits on prompt-final states and scores generated tokens with the result (`prompt`). That is out of the probe's
distribution: `centred` removes the mean state of each decoding step before scoring, `token` fits on generated tokens to begin with.
These take states as arrays; `probes/fitting.py` takes a trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from safesteer_interp.errors import InputError
from safesteer_interp.probes.centring import StepCentring
from safesteer_interp.probes.decoding_probe import DecodingProbe, Fit
from safesteer_interp.probes.signs import SignTest, sign_test
from safesteer_interp.probes.tokens import TokenStates
from safesteer_interp.tracing.origin import Origin


def run_sign_test(probe: DecodingProbe, tokens: TokenStates, *, replicates: int = 1000, seed: int = 0) -> SignTest:
    """The sign test of a probe on emitted tokens; give tokens of requests that the probe was not fitted on."""
    scores = probe.decision_at(tokens.states, tokens.steps)
    return sign_test(
        scores[tokens.refusal],
        scores[~tokens.refusal],
        refusal_prompts=tokens.prompts[tokens.refusal],
        compliance_prompts=tokens.prompts[~tokens.refusal],
        replicates=replicates,
        seed=seed,
    )


def fit_prompt(
    states: Float[np.ndarray, "n d"],
    harmful: Bool[np.ndarray, " n"],
    *,
    held_out: TokenStates | None = None,
    origin: Origin | None = None,
    **parameters: Any,
) -> DecodingProbe:
    """The paper's fit: prompt-final states, harmful against harmless (arXiv 2605.11716 eq. 1-4).

    With `held_out` tokens the sign test runs here. `parameters` are those of DecodingProbe.
    Raises InputError when states are NaN or one class is missing.
    """
    return _finish(_fit(states, harmful, ("harmful", "harmless"), parameters), "prompt", held_out, origin)


def fit_centred(
    states: Float[np.ndarray, "n d"],
    harmful: Bool[np.ndarray, " n"],
    tokens: TokenStates,
    *,
    held_out: TokenStates | None = None,
    origin: Origin | None = None,
    **parameters: Any,
) -> DecodingProbe:
    """The prompt fit, but each decoding step's mean state (over the training split's `tokens`) replaces m when scoring that step."""
    probe = _fit(states, harmful, ("harmful", "harmless"), parameters)
    if not len(tokens.states):
        raise InputError("the centred fit needs states of generated tokens from the training split, but there are none; trace step:1 on.")
    steps = np.concatenate([np.zeros(len(states), dtype=np.int64), tokens.steps])
    probe.centring_ = StepCentring().fit(np.concatenate([states, tokens.states]), steps=steps)
    return _finish(probe, "centred", held_out, origin)


def fit_token(
    tokens: TokenStates, *, held_out: TokenStates | None = None, origin: Origin | None = None, **parameters: Any
) -> DecodingProbe:
    """Fitted on generated tokens of the training split, refusals (1) against compliances (0).

    Refusals get label 1 so that, as in the other fits, the higher score is the token that guided decoding prefers.
    """
    return _finish(_fit(tokens.states, tokens.refusal, ("refusal", "compliance"), parameters), "token", held_out, origin)


def _fit(states: np.ndarray, positive: np.ndarray, names: tuple[str, str], parameters: dict[str, Any]) -> DecodingProbe:
    positive = np.asarray(positive, dtype=bool)
    n = int(positive.sum())
    if n == 0 or n == len(positive):
        raise InputError(
            f"the probe needs {names[0]} and {names[1]} examples but got {n} and {len(positive) - n}; check the labels and the split."
        )
    bad = int((~np.isfinite(states).all(axis=1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(states)} states are NaN or infinite, so no probe can be fitted; drop requests that lack the read.")
    return DecodingProbe(**parameters).fit(states, positive.astype(np.int64))


def _finish(probe: DecodingProbe, fit: Fit, held_out: TokenStates | None, origin: Origin | None) -> DecodingProbe:
    probe.fit_ = fit
    probe.origin_ = origin or Origin()
    probe.sign_test_ = run_sign_test(probe, held_out) if held_out is not None else None
    return probe
