"""What SafeSteer is fitted on: prompt-final states, states of the first answer tokens, and which of those answers refuse."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.decoding_probe import DecodingProbe, Fit
from safesteer_interp.probes.fits import TokenStates, fit_centred, fit_prompt, fit_token
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Request, Split
from safesteer_interp.sites import ReadKind, Site, SiteKind
from safesteer_interp.tracing.collect import StoreLike, collect
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.tracing.tracer import DEFAULT_TRACER, Sampling
from safesteer_interp.types import RowMask

SITE = Site(SiteKind.FINAL_NORM)
FITS: tuple[str, ...] = get_args(Fit)
HELD_OUT = 0.2
"""Share of the training pairs kept for the sign test where the data set has no validation split."""


def check_fit(fit: str) -> None:
    """Raise UsageError unless `fit` names one of the three fits."""
    if fit not in FITS:
        raise UsageError(f'"{fit}" is not a fit of the probe; expected one of {", ".join(FITS)}.')


def training_trace(
    mllm: MLLM,
    requests: Sequence[Request],
    *,
    tokens: int = 5,
    answer_tokens: int = 16,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 32,
    tracer: str = DEFAULT_TRACER,
    store: StoreLike = "default",
    progress: bool = True,
) -> Traced:
    """States at `final_norm` of the last prompt token and of the first `tokens` answer tokens, with the undefended answers.

    Requests of the TEST split are left out. An answer of `answer_tokens` tokens is enough to see whether it refuses.
    Raises InputError when no request is left.
    """
    kept = [request for request in requests if request.split is not Split.TEST]
    if not kept:
        raise InputError("there is no training request: every request given is of the test split; load the train split as well.")
    return collect(
        mllm,
        kept,
        sites=(SITE,),
        reads=("last_prompt", f"step:1-{tokens}"),
        sampling=Sampling(max_new_tokens=max(answer_tokens, tokens + 1), temperature=temperature, seed=seed),
        tracer=tracer,
        batch_size=batch_size,
        store=store,
        progress=progress,
    )


def held_out(index: pd.DataFrame) -> RowMask:
    """[n] True for rows kept from the fit and used for the sign test: the validation split, else a fifth of the pairs, by hash."""
    validation = (index["split"] == str(Split.VALIDATION)).to_numpy()
    if validation.any():
        return validation
    # salted: splits and smaller selections of pairs are taken by the plain hash, lowest first, and would all fall on one side
    share = {pair: int(hashlib.sha256(f"sign test\0{pair}".encode()).hexdigest()[:8], 16) / 2**32 for pair in set(index["pair"])}
    return np.array([share[pair] < HELD_OUT for pair in index["pair"]])


def token_states(trace: Traced, rows: RowMask) -> TokenStates:
    """States of the first answer tokens to the harmful requests among `rows`, labelled by whether the answer refuses.

    Harmless requests are left out, so that refusal against compliance is not harmful against harmless once more.
    """
    reads = sorted((read for read in trace.reads if read.kind is ReadKind.STEP), key=lambda read: read.step or 0)
    index, texts = trace.index, trace.texts
    asked = np.flatnonzero(rows & index["harmful"].to_numpy(dtype=bool))
    refusal = np.array([is_refusal(texts[i]) for i in asked], dtype=bool)
    states, labels, steps, prompts = [], [], [], []
    for read in reads:
        there = trace.present(read)[asked]
        states.append(trace.rows(SITE, read)[asked[there]])
        labels.append(refusal[there])
        steps.append(np.full(int(there.sum()), read.step, dtype=np.int64))
        prompts.append(index["pair"].to_numpy()[asked[there]])
    if not reads:
        raise UsageError('the trace holds no answer tokens; capture it with reads "last_prompt,step:1-5".')
    return TokenStates(np.concatenate(states), np.concatenate(labels), np.concatenate(steps), np.concatenate(prompts))


def fit_probe(mllm: MLLM, trace: Traced, fit: str = "prompt", **parameters: Any) -> DecodingProbe:
    """The probe of one of the three fits on a training trace, with its sign test on held-out pairs where they have both kinds.

    Raises UsageError for an unknown fit and InputError when a class is missing.
    """
    check_fit(fit)
    index = trace.index
    held = held_out(index)
    tested = token_states(trace, held)
    enough = min(int(tested.refusal.sum()), int((~tested.refusal).sum())) >= 2
    test = tested if enough else None
    data = f"{', '.join(sorted(set(index['dataset'])))}: {int((~held).sum())} requests, sign test on {int(held.sum())}"
    states = trace.rows(SITE, "last_prompt")[~held]
    harmful = index["harmful"].to_numpy(dtype=bool)[~held]
    if fit == "token":
        return fit_token(token_states(trace, ~held), held_out=test, origin=Origin.of(mllm, SITE, "step", data), **parameters)
    origin = Origin.of(mllm, SITE, "last_prompt", data)
    if fit == "centred":
        return fit_centred(states, harmful, token_states(trace, ~held), held_out=test, origin=origin, **parameters)
    return fit_prompt(states, harmful, held_out=test, origin=origin, **parameters)
