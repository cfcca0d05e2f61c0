"""What SafeSteer is fitted from: two probes, the vector, and the candidates that set the unit of the score and pass the sign test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safesteer_interp.decoding.rollouts import RollOut, offered, ranked
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.probes.decoding_probe import DecodingProbe, check_guides
from safesteer_interp.probes.fitting import check_fit, fit_probe, held_out
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.tokens import SITE
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced, fitting_rows
from safesteer_interp.types import RowMask
from safesteer_interp.vectors.alignment import AlignmentVector, alignment_vectors

SPREAD_PAIRS, CONTRAST_PAIRS, SIGN_PAIRS = 8, 24, 10
"""Pairs whose harmful requests offer candidates: for the spread of scores, for the contrastive fit, for the sign test."""
FEWEST_CANDIDATES, TESTED_CANDIDATES = 5, 10
"""Measured at least, whatever K is: one candidate has no spread, and among five a choice is seldom contested."""
TESTED_STEPS = 3
"""First steps of the sign test and of the contrastive fit: a refusal is decided there, and later choices are hardly contested."""


@dataclass(frozen=True)
class Parts:
    """Fitted objects of one SafeSteer."""

    probe: DecodingProbe
    prompt_probe: DecodingProbe
    vector: AlignmentVector | None


def fitted_parts(
    mllm: MLLM,
    trace: Traced,
    fit: str,
    options: Mapping[str, Any],
    *,
    split: str | None = FIT_SPLIT,
    site: Site = SITE,
    image_form: Attack | str = Attack.SD,
    probe: Mapping[str, Any] | None = None,
    candidates: Offered | None = None,
    tested: Offered | None = None,
    whole: bool = False,
) -> Parts:
    """Fit on the requests of `split` in a stored trace; `options` (fields of SafeSteer, with defaults filled in) say what is needed.

    `candidates` of training requests and `tested`, labelled ones of held-out requests, are measured on the trace's own requests unless
    given. `whole`: where no sign test is made nothing is held back for it. Raises InputError when a class is missing, or (with alignment)
    SD or CB requests are.
    """
    check_fit(fit)
    guides = bool(options["steps"]) and options["scorer"] == "probe"
    if guides:
        check_guides(fit)
    tests = tested is not None or (guides and not options["force"])
    parameters = {**(probe or {}), "whole": whole and not tests}
    of_prompts = fit_probe(mllm, trace, "prompt", split=split, **parameters)
    if candidates is None and (fit == "contrastive" or (guides and options["scaled"])):
        some = training_requests(trace, split, whole=whole and not tests)
        candidates = training_candidates(mllm, some, options, contrastive=fit == "contrastive", site=site)
    if tested is None and tests:
        tested = held_out_candidates(mllm, _requests(trace, held_out(trace.index, split)), options, site=site)
    scoring = of_prompts
    if fit != "prompt" or site != SITE or candidates is not None or tested is not None:
        scoring = fit_probe(mllm, trace, fit, split=split, site=site, candidates=candidates, tested=tested, **parameters)
    if fit == "prompt" and site == SITE:
        of_prompts = scoring  # one object, stored once
    vector = alignment_vectors(trace, sites=(SITE,), split=split, image=image_form)[str(SITE)] if options["alignment"] else None
    return Parts(scoring, of_prompts, vector)


def training_candidates(
    mllm: MLLM, requests: Sequence[Request], options: Mapping[str, Any], *, contrastive: bool = False, site: Site = SITE
) -> Offered:
    """Candidates of some of the training requests; labelled by roll-out where the contrastive fit is made on them."""
    some = ranked(requests, CONTRAST_PAIRS if contrastive else SPREAD_PAIRS)
    steps = min(options["steps"] or 1, TESTED_STEPS) if contrastive else options["steps"] or 1
    how = RollOut(k=max(options["k"], FEWEST_CANDIDATES), steps=steps, tokens=RollOut.tokens if contrastive else 0)
    return offered(mllm, some, how, site=site)


def held_out_candidates(mllm: MLLM, requests: Sequence[Request], options: Mapping[str, Any], *, site: Site = SITE) -> Offered | None:
    """Labelled candidates of held-out requests, at the first guided steps; None where there is no such request."""
    some = ranked(requests, SIGN_PAIRS)
    how = RollOut(k=max(options["k"], TESTED_CANDIDATES), steps=min(options["steps"], TESTED_STEPS))
    return offered(mllm, some, how, site=site) if some else None


def training_requests(trace: Traced, split: str | None = FIT_SPLIT, *, whole: bool = False) -> list[Request]:
    """The requests of a trace that are fitted on (`whole`: also those that a sign test would be made on)."""
    rows = fitting_rows(trace.index, split)
    return _requests(trace, rows if whole else rows & ~held_out(trace.index, split))


def _requests(trace: Traced, rows: RowMask) -> list[Request]:
    found = getattr(trace, "requests", None)
    if found is None:
        raise UsageError(
            "this trace does not hold its requests, which are asked again for their candidates; open it with `collect`, or give "
            "`candidates` and `tested`."
        )
    return [request for request, take in zip(found, rows, strict=True) if take]
