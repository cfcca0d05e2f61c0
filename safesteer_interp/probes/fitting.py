"""The probe fitted on a trace: training requests in, a probe with its origin and its sign test on held-out pairs out.

Fits see the split they are told, by default `FIT_SPLIT`, and never the test or the align split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.decoding_probe import DecodingProbe, Fit
from safesteer_interp.probes.fits import fit_centred, fit_contrastive, fit_prompt, fit_token
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.token_spec import TOKENS, TokenSpec
from safesteer_interp.probes.tokens import SITE, token_states
from safesteer_interp.requests import Request, Split
from safesteer_interp.sites import Site
from safesteer_interp.tracing.collecting import StoreLike, collect, plan
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.plan import Plan
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced, fitting_rows
from safesteer_interp.tracing.tracer import DEFAULT_TRACER, Sampling
from safesteer_interp.types import RowMask

FITS: tuple[str, ...] = get_args(Fit)
HELD_OUT = 0.2
"""Share of the training pairs kept for the sign test where the data set has no validation split."""


def check_fit(fit: str) -> None:
    """Raise UsageError unless `fit` names one of the four fits."""
    if fit not in FITS:
        raise UsageError(f'"{fit}" is not a fit of the probe; expected one of {", ".join(FITS)}.')


def training_trace(
    mllm: MLLM,
    requests: Sequence[Request],
    tokens: TokenSpec = TOKENS,
    *,
    sites: Sequence[str] = (str(SITE),),
    batch_size: int = 32,
    tracer: str = DEFAULT_TRACER,
    store: StoreLike = "default",
    progress: bool = True,
) -> Traced:
    """States at `sites` of the last prompt token and of the first answer tokens, with the undefended answers.

    Requests of the fit and validation splits are taken; the options are those of `collect`. Raises InputError when no request is left.
    """
    kept, asked = _training(requests, tokens, sites)
    return collect(mllm, kept, **asked, tracer=tracer, batch_size=batch_size, store=store, progress=progress)


def training_plan(
    mllm: MLLM, requests: Sequence[Request], tokens: TokenSpec = TOKENS, *, tracer: str = DEFAULT_TRACER, store: StoreLike = "default"
) -> Plan:
    """What `training_trace` would do with the same arguments, and how much of it is stored already. Runs no forward."""
    kept, asked = _training(requests, tokens, (str(SITE),))
    return plan(mllm, kept, **asked, tracer=tracer, store=store)


def _training(requests: Sequence[Request], tokens: TokenSpec, sites: Sequence[str]) -> tuple[list[Request], dict[str, Any]]:
    """The requests that may be fitted on, and what is asked of them."""
    kept = [request for request in requests if request.split in (Split.FIT, Split.VALIDATION)]
    if not kept:
        raise InputError("there is no request to fit on: every one given is of the test or the align split; load the fit split as well.")
    sampling = Sampling(tokens.max_new_tokens, tokens.temperature, tokens.seed)
    return kept, {"sites": tuple(sites), "reads": tokens.reads, "sampling": sampling}


def held_out(index: pd.DataFrame, split: str | None = FIT_SPLIT) -> RowMask:
    """[n] True for rows kept from the fit and used for the sign test: the validation split, else a fifth of the split's pairs.

    A fifth by rank of a salted hash, so that the share is the same however few pairs there are (at least one).
    """
    validation = (index["split"] == str(Split.VALIDATION)).to_numpy()
    if validation.any() and split != Split.VALIDATION:
        return validation
    rows = fitting_rows(index, split)
    # salted: splits and smaller selections of pairs are taken by the plain hash, lowest first, and would all fall on one side
    ranked = sorted(set(index["pair"][rows]), key=lambda pair: hashlib.sha256(f"sign test\0{pair}".encode()).hexdigest())
    kept = set(ranked[: max(1, round(HELD_OUT * len(ranked)))] if len(ranked) > 1 else ())
    return np.array([pair in kept for pair in index["pair"]], dtype=bool) & rows


def fit_probe(
    mllm: MLLM,
    trace: Traced,
    fit: str = "prompt",
    *,
    split: str | None = FIT_SPLIT,
    site: Site = SITE,
    candidates: Offered | None = None,
    tested: Offered | None = None,
    whole: bool = False,
    **parameters: Any,
) -> DecodingProbe:
    """The probe of one of the four fits on the requests of `split` (None: all but the test split), read at `site`.

    To guide it also needs `candidates` of training requests (the spread of its scores; what `contrastive` is fitted on) and `tested`,
    labelled ones of held-out requests for the sign test, all at the same site; `SafeSteer.fit` measures both. `whole` holds nothing of the
    split back, for a probe that nothing is tested on. `parameters` are those of DecodingProbe. Raises UsageError for an unknown fit or the
    test split, InputError when the trace holds none of that split or a class is missing.
    """
    check_fit(fit)
    index = trace.index
    held = np.zeros(len(index), dtype=bool) if whole else held_out(index, split)
    fitted = fitting_rows(index, split) & ~held
    if not fitted.any():
        there = ", ".join(f"{name}: {count}" for name, count in index["split"].value_counts().items())
        raise InputError(
            f"the trace holds no request to fit a probe on in the {split or 'training'} split (it holds {there or 'none'}); "
            "give requests a `split`, or fit a DecodingProbe on the states themselves."
        )
    names = ", ".join(sorted(set(index["dataset"][fitted | held])))
    data = f"{names}: {int(fitted.sum())} requests"
    measured: dict[str, Any] = {"held_out": tested, "candidates": candidates}
    if fit == "token":
        return fit_token(token_states(trace, fitted, site=site), origin=Origin.of(mllm, site, "step", data), **measured, **parameters)
    if fit == "contrastive":
        if candidates is None:
            raise UsageError("the contrastive fit is made on candidates; give `candidates` (decoding/rollouts.py), or use SafeSteer.fit.")
        data = f"{names}: candidates of {len(set(candidates.prompts))} requests"
        return fit_contrastive(candidates, held_out=tested, origin=Origin.of(mllm, site, "step", data), **parameters)
    states, harmful = trace.rows(site, "last_prompt")[fitted], index["harmful"].to_numpy(dtype=bool)[fitted]
    origin = Origin.of(mllm, site, "last_prompt", data)
    if fit == "centred":
        return fit_centred(states, harmful, token_states(trace, fitted, site=site), origin=origin, **parameters)
    return fit_prompt(states, harmful, origin=origin, **measured, **parameters)
