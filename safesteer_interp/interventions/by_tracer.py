"""Patches through any tracer, in whole forwards: the yardstick of `replaying.py`, the way to nnsight and TransformerLens, and to answers.

One row of a batch is one patch; a tracer sees nothing but edits. States come from a pass of the same tracer over the donors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.interventions.alignment import Positions, matched
from safesteer_interp.interventions.kinds import Head, Patch, Place, check_heads
from safesteer_interp.interventions.replaying import n_heads, part_at
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, ReadKind, Role, Site, SiteKind
from safesteer_interp.tracing.engines import DEFAULT_TRACER, load_tracer
from safesteer_interp.tracing.tracer import GREEDY, At, Captured, Edit, Sampling, Tracer
from safesteer_interp.types import Hidden


def patched(
    mllm: MLLM,
    receivers: Sequence[Request],
    patches: Sequence[Patch],
    donors: Sequence[Request],
    *,
    tracer: str = DEFAULT_TRACER,
    sampling: Sampling = GREEDY,
) -> Captured:
    """Row i: receiver i under patch i with states of donor i. First-token logits, and as many answer tokens as `sampling` asks.

    The patch acts in the prompt pass only; later steps read what it left in the cache. One prompt pass over donors and one over
    receivers. In the eyes (`vision.3`, `projector`) all of a picture is patched, by a donor's picture of the same size. Raises UsageError
    for a layer or head that the model does not have, for lists of unequal length, and as the tracer does.
    """
    if not len(receivers) == len(patches) == len(donors):
        raise UsageError(f"one donor and one patch a receiver, please: got {len(receivers)}, {len(patches)} and {len(donors)}.")
    check_heads(patches, mllm.n_layers, n_heads(mllm))
    sites = tuple(dict.fromkeys(_site_of(place) for patch in patches for place in patch.places))
    engine = load_tracer(tracer, mllm)
    given, taken = mllm.encode(receivers), mllm.encode(donors)
    states = states_at(engine, taken, sites)
    rows = [_Row.of(patch, given, taken, row) for row, patch in enumerate(patches)]

    def write(hidden: Hidden, at: At) -> Hidden:
        if at.step:
            return hidden
        out = hidden.clone()
        for number, row in enumerate(rows):
            for place in (place for place in row.patch.places if _site_of(place) == at.site):  # several heads lie at one site
                if at.rows is not None:
                    mine = at.rows == number
                    if mine.any():
                        out[mine] = _looking(row.patch, hidden[mine], states.get(at.site, {}), number, at.site)
                    continue
                old = part_at(hidden[number], place, mllm)[row.mine]
                new = part_at(states[at.site][number], place, mllm)[row.theirs].to(hidden.device)
                part_at(out[number], place, mllm)[row.mine] = (
                    new if row.patch.rewrite is None else row.patch.rewrite(old, new).to(out.dtype)
                )
        return out

    edit = Edit(sites, write, "patch", eyes=True)
    return engine.capture(given, (), (Read(ReadKind.LAST_PROMPT),), sampling=sampling, edits=(edit,), logits=True)


def _site_of(place: Place) -> Site:
    """Where a tracer finds a place: a head among all of its layer."""
    return Site(SiteKind.HEADS, place.layer) if isinstance(place, Head) else place


def states_at(engine: Tracer, batch: Encoded, sites: Sequence[Site]) -> dict[Site, Any]:
    """States [batch, sequence, d] of the prompt pass at every token, padding included; of the eyes, by row, [parts, tokens, width].

    One forward, none kept elsewhere.
    """
    found: dict[Site, Any] = {}

    def keep(hidden: Hidden, at: At) -> Hidden:
        kept = hidden.detach().clone()
        found[at.site] = kept if at.rows is None else {int(row): kept[at.rows == row] for row in at.rows.unique()}
        return hidden

    engine.capture(batch, (), (Read(ReadKind.LAST_PROMPT),), edits=(Edit(tuple(sites), keep, "keep", eyes=True),))
    return found


def _looking(patch: Patch, parts: Hidden, donors: dict[int, Tensor], row: int, site: Site) -> Hidden:
    """One row's picture in the eyes, patched. Raises InputError for a donor whose picture is cut otherwise, or that has none."""
    new = donors.get(row)
    if new is None or new.shape != parts.shape:
        there = "no picture" if new is None else f"{tuple(new.shape[:2])} states there"
        raise InputError(
            f"patch of {site}: receiver {row} has {tuple(parts.shape[:2])} states there and its donor {there}; "
            "in the eyes only pictures of one size stand in for one another."
        )
    if patch.rewrite is None:
        return new.to(parts)
    width = parts.shape[-1]
    return patch.rewrite(parts.reshape(-1, width), new.reshape(-1, width)).to(parts.dtype).reshape(parts.shape)


@dataclass(frozen=True, eq=False)
class _Row:
    """One patch, with the tokens it matches as columns of the two padded batches."""

    patch: Patch
    mine: Positions
    theirs: Positions

    @classmethod
    def of(cls, patch: Patch, given: Encoded, taken: Encoded, row: int) -> _Row:
        roles = [batch.roles[row].cpu().long() for batch in (taken, given)]
        kept = [of[of != int(Role.PAD)] for of in roles]
        mine, theirs = matched(kept[0], kept[1], patch.roles)
        return cls(patch, mine + len(roles[1]) - len(kept[1]), theirs + len(roles[0]) - len(kept[0]))
