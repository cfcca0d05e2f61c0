"""Four ways to fit the probe, compared everywhere: `prompt`, `centred`, `token` and `contrastive`.

The paper fits on prompt-final states and scores generated tokens with the result (`prompt`), which is out of the probe's distribution.
`centred` removes the mean state of each decoding step before scoring (a curve only: among candidates of one step it changes nothing),
`token` fits on emitted tokens of whole answers, and `contrastive` on the candidates of single choices, labelled by what the model does
after each. These take states as arrays; `probes/fitting.py` takes a trace.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from safesteer_interp.errors import InputError
from safesteer_interp.probes.centring import StepCentring
from safesteer_interp.probes.decoding_probe import DecodingProbe, Fit
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.signs import SignTest, sign_test
from safesteer_interp.probes.tokens import TokenStates
from safesteer_interp.tracing.origin import Origin


def run_sign_test(probe: DecodingProbe, offered: Offered, *, seed: int = 0) -> SignTest | None:
    """The sign test of a probe among candidates; give those of requests that the probe was not fitted on."""
    return sign_test(scores_of(probe, offered), offered, seed=seed)


def scores_of(probe: DecodingProbe, offered: Offered) -> Float[np.ndarray, " n"]:
    """The probe's scores of candidates, as guided decoding would see them."""
    return probe.decision_at(offered.states, offered.steps + 1) if len(offered) else np.zeros(0)


def fit_prompt(
    states: Float[np.ndarray, "n d"],
    harmful: Bool[np.ndarray, " n"],
    *,
    held_out: Offered | None = None,
    candidates: Offered | None = None,
    origin: Origin | None = None,
    **parameters: Any,
) -> DecodingProbe:
    """The paper's fit: prompt-final states, harmful against harmless (arXiv 2605.11716 eq. 1-4).

    On `held_out` candidates the sign test runs, on `candidates` of training requests the spread of scores is measured. `parameters` are
    those of DecodingProbe. Raises InputError when states are NaN or one class is missing.
    """
    return _finish(_fit(states, harmful, ("harmful", "harmless"), parameters), "prompt", held_out, candidates, origin)


def fit_centred(
    states: Float[np.ndarray, "n d"],
    harmful: Bool[np.ndarray, " n"],
    tokens: TokenStates,
    *,
    origin: Origin | None = None,
    **parameters: Any,
) -> DecodingProbe:
    """The prompt fit, but each decoding step's mean state (over the training split's `tokens`) replaces m when scoring that step.

    For curves over steps; it may not guide.
    """
    probe = _fit(states, harmful, ("harmful", "harmless"), parameters)
    if not len(tokens.states):
        raise InputError("the centred fit needs states of generated tokens from the training split, but there are none; trace step:1 on.")
    steps = np.concatenate([np.zeros(len(states), dtype=np.int64), tokens.steps])
    probe.centring_ = StepCentring().fit(np.concatenate([states, tokens.states]), steps=steps)
    return _finish(probe, "centred", None, None, origin)


def fit_token(
    tokens: TokenStates,
    *,
    held_out: Offered | None = None,
    candidates: Offered | None = None,
    origin: Origin | None = None,
    **parameters: Any,
) -> DecodingProbe:
    """Fitted on generated tokens of the training split, refusals (1) against compliances (0).

    Refusals get label 1 so that, as in the other fits, the higher score is the token that guided decoding prefers.
    """
    return _finish(_fit(tokens.states, tokens.refusal, ("refusal", "compliance"), parameters), "token", held_out, candidates, origin)


def fit_contrastive(
    candidates: Offered, *, held_out: Offered | None = None, origin: Origin | None = None, **parameters: Any
) -> DecodingProbe:
    """Fitted on candidates of single choices: those after which the model refuses (1) against the others (0) of the same prompt and step.

    Each choice's mean state is taken away first, so that nothing that tells prompts or steps apart can enter (a linear model of
    differences within a choice). Raises InputError when no choice of the training requests is contested.
    """
    contested = candidates.contested()
    if not candidates.labelled or not len(contested):
        raise InputError(
            "the contrastive fit needs steps at which some candidates lead to a refusal and some do not, labelled by roll-out; "
            "there are none. Give more requests, or a larger K."
        )
    groups = contested.groups
    sums = np.zeros((groups.max() + 1, contested.states.shape[1]))
    np.add.at(sums, groups, contested.states)
    within = contested.states - (sums / np.bincount(groups)[:, None])[groups]
    centre = contested.states.astype(np.float64).mean(axis=0)
    probe = _fit(within + centre, contested.refusal, ("refusing", "complying"), parameters)
    return _finish(probe, "contrastive", held_out, candidates, origin)


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


def _finish(probe: DecodingProbe, fit: Fit, held_out: Offered | None, candidates: Offered | None, origin: Origin | None) -> DecodingProbe:
    probe.fit_ = fit
    probe.origin_ = origin or Origin()
    probe.sign_test_ = run_sign_test(probe, held_out) if held_out is not None else None
    probe.spread_ = candidates.spread(scores_of(probe, candidates)) if candidates is not None and len(candidates) else None
    return probe
