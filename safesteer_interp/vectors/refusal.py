"""The refusal direction: difference in means between harmful and harmless requests (arXiv 2406.11717).

These are the candidates, one per site and read; `steering/selection.py` picks one by what editing with it does to the model. As published
the reads are all template tokens behind the request (`template_reads`), and requests that are not answered as their class should be are
dropped beforehand (`keep`, from `steering.selection.answered_as_labelled`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Read, ReadKind, Role, Site, SiteKind
from safesteer_interp.tracing.origin import Origin, known_origin
from safesteer_interp.tracing.trace import FIT_SPLIT, Traced, fitting_rows
from safesteer_interp.vectors.direction import Direction, mean_difference, median_norm

TEXT_ATTACKS = (Attack.TEXT, Attack.CB)
"""Where harm is in the text: what text-only safety training saw, so what its refusal direction is estimated from."""
DEEPEST = 0.8
"""Candidates lie in the first 80 % of the layers: later ones act on the output token itself (arXiv 2406.11717 section 2.3)."""


def refusal_direction(states: Float[np.ndarray, "n d"], harmful: Bool[np.ndarray, " n"], *, origin: Origin | None = None) -> Direction:
    """The unit vector along mean(harmful) - mean(harmless) of states at one site and read; rows with NaN are left out.

    Without `origin` nothing can hold the direction to its model and site, and a warning says so.
    Raises InputError when a class is missing or the means are equal.
    """
    origin = known_origin(origin, "refusal direction")
    usable = np.isfinite(states).all(axis=1)
    harmful = np.asarray(harmful, dtype=bool)
    difference = mean_difference(states, usable & harmful, usable & ~harmful)
    return Direction.from_difference(difference, "refusal", origin=origin, residual_norm=median_norm(states[usable]), n=int(usable.sum()))


def refusal_directions(
    trace: Traced,
    *,
    sites: Iterable[Site | str] | None = None,
    reads: Iterable[Read | str] = ("last_prompt",),
    attacks: Iterable[Attack | str] | None = TEXT_ATTACKS,
    split: str | None = FIT_SPLIT,
    keep: Bool[np.ndarray, " n"] | None = None,
) -> list[Direction]:
    """One candidate per captured site (or those given) and read, from the requests of the given attacks and split (None: all but test).

    `keep` leaves out further rows of the trace, e.g. harmful requests that the model does not refuse anyway.
    A site where both classes have the same mean (e.g. `embed` at the last prompt token) gives no direction and is left out.
    Raises InputError when no request matches, UsageError for the test split.
    """
    labels = trace.labels
    chosen, harmful = fitting_rows(trace.index, split), labels.harmful
    if keep is not None:
        chosen = chosen & np.asarray(keep, dtype=bool)
    if attacks is not None:
        attacks = list(attacks)
        chosen = chosen & np.isin(labels.attacks, [str(a) for a in attacks])
    if not (chosen & harmful).any() or not (chosen & ~harmful).any():
        raise InputError(
            f"the refusal direction needs harmful and harmless requests of attacks {', '.join(map(str, attacks or ['any']))} in the "
            f"{split or 'whole'} split, but the trace holds {int((chosen & harmful).sum())} and {int((chosen & ~harmful).sum())}"
            f"{' that are to be kept' if keep is not None else ''}."
        )
    found = []
    for site in [s for s in trace.sites if not s.in_eyes] if sites is None else sites:
        for read in reads:
            states = trace.rows(site, read)[chosen]
            if np.ptp(states[np.isfinite(states).all(axis=1)], axis=0).max(initial=0) == 0:
                continue
            found.append(refusal_direction(states, harmful[chosen], origin=Origin.of_trace(trace, site, read)))
    return found


def template_reads(mllm: MLLM) -> tuple[str, ...]:
    """Reads of all tokens the template writes behind a request, the last first: "last_prompt", "last_prompt:-1", ... (arXiv 2406.11717
    section 2.3). They are the same tokens in every prompt, so that states there differ by what came before only.
    """
    roles = mllm.encode([Request(id="template", text="Hello.", harmful=False, attack=Attack.NONE)]).roles[0].tolist()
    behind = next((i for i, role in enumerate(reversed(roles)) if role != Role.TEMPLATE), len(roles))
    return tuple(str(Read(ReadKind.LAST_PROMPT, back=back)) for back in range(max(behind, 1)))


def eligible(candidates: Iterable[Direction], n_layers: int, deepest: float = DEEPEST) -> list[Direction]:
    """The candidates in the residual stream of the first `deepest` share of the layers (`embed` counts as the input of layer 0).

    Raises UsageError when none is left.
    """
    kept = [c for c in candidates if (depth := residual_depth(c.site)) is not None and depth < deepest * n_layers]
    if not kept:
        raise UsageError(f"no candidate direction lies in the residual stream of the first {deepest:.0%} of {n_layers} layers.")
    return kept


def residual_depth(site: Site) -> int | None:
    """Index of the layer whose input a residual site is (resid_post.l is the input of layer l + 1); None for other sites."""
    if site.kind is SiteKind.EMBED:
        return 0
    return site.layer + 1 if site.kind is SiteKind.RESID_POST and site.layer is not None else None
