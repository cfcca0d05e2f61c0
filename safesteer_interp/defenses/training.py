"""What defenses that live in the decoder layers are fitted on: one trace of the training requests, shared by all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.paths import store_dir
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.collecting import StoreLike, collect
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced, fitting_rows
from safesteer_interp.tracing.tracer import Sampling
from safesteer_interp.types import RowMask

ANSWER_TOKENS = 24
"""Greedy tokens of every undefended answer: enough to see whether it refuses."""


def layer_trace(mllm: MLLM, training: Sequence[Request], *, store: StoreLike = "default", progress: bool = True) -> Traced:
    """Prompt states at every layer and at the final norm, with the undefended greedy answers, of the fit and validation splits.

    Raises UsageError when nothing is given and InputError when nothing of these splits is.
    """
    if not training:
        raise UsageError("this defense is fitted on training requests, and none were given.")
    kept = [request for request in training if request.split in (Split.FIT, Split.VALIDATION)]
    if not kept:
        raise InputError("there is no request to fit on: every one given is of the test or the align split; load the fit split as well.")
    sampling, kept_in = Sampling(ANSWER_TOKENS, 0.0), store_dir("traces") if store == "default" else store
    return collect(
        mllm, kept, sites="resid_post,final_norm", reads="last_prompt", sampling=sampling, batch_size=32, store=kept_in, progress=progress
    )


def layer_sites(mllm: MLLM, first: int, last: int) -> tuple[Site, ...]:
    """The residual streams after layers `first` to `last` (included). Raises UsageError for layers the model has not."""
    if not 0 <= first <= last < mllm.n_layers:
        raise UsageError(f"layers {first} to {last} are asked for, but {mllm.name} has layers 0 to {mllm.n_layers - 1}.")
    return tuple(Site(SiteKind.RESID_POST, layer) for layer in range(first, last + 1))


def rows_of(
    trace: Traced, *, attacks: Sequence[Attack] = (), harmful: bool | None = None, split: str | None = FIT_SPLIT, what: str = "fit"
) -> RowMask:
    """[n] True for the rows of a split (None: all but test), of attacks (empty: all) and a class. Raises InputError when none is."""
    labels = trace.labels
    keep = fitting_rows(trace.index, split)
    if attacks:
        keep = keep & np.isin(labels.attacks, [str(a) for a in attacks])
    if harmful is not None:
        keep = keep & (labels.harmful == harmful)
    if not keep.any():
        kind = "" if harmful is None else "harmful " if harmful else "harmless "
        forms = f" of attack {' or '.join(map(str, attacks))}" if attacks else ""
        raise InputError(f"to {what}, {kind}training requests{forms} are needed and there are none; give others with --training.")
    return np.asarray(keep)
