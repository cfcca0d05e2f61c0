"""CMRM, cross-modality representation manipulation (arXiv 2410.09047): move states back by what a meaningless picture does to a text.

The shift is h(text) - h(text beside a blank picture), as a mean over the training requests ("dataset") or of the request itself ("sample"),
and h' = h + alpha * shift at every layer, at the last prompt token and the answer's tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from safesteer_interp.datasets.rendering import BlankImage
from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.defenses.shifts import move_edit, prompt_states, vector
from safesteer_interp.defenses.training import layer_sites, layer_trace, rows_of
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.types import Vector

LEVELS = ("dataset", "sample")


@dataclass(frozen=True, eq=False)
class CMRM(StagedDefense):
    """Adds the shift from blank picture to text wherever a picture is shown; requests without one are answered as they are.

    Shifts of neighbouring layers add up in the residual stream; as printed, every layer adds its own whole. `increments` adds at each
    layer only what the one before has not, so that the state is moved by the shift once.
    """

    name = "cmrm"
    trained = True
    shifts: Mapping[Site, Vector]
    """Mean shift at each layer [d], from blank picture to text."""
    origin: Origin
    alpha: float = 1.0
    level: str = "dataset"
    """"dataset": the mean shift; "sample": the request's own, from two more passes."""
    increments: bool = False
    answer: bool = True
    """False: the prompt's last token only."""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise UsageError(f'CMRM has no level "{self.level}"; it is "dataset" or "sample".')

    @property
    def prepares(self) -> bool:  # type: ignore[override]
        """Whether the request's own shift has to be measured first."""
        return self.level == "sample"

    @classmethod
    def build(cls, mllm: MLLM, training: Sequence[Request] = (), *, first: int = 0, last: int = -1, **options: Any) -> CMRM:
        """`first`, `last`: the layers; by default all."""
        return cls.from_trace(mllm, layer_trace(mllm, training), first=first, last=last, **options)

    @classmethod
    def from_trace(cls, mllm: MLLM, trace: Traced, *, first: int = 0, last: int = -1, **options: Any) -> CMRM:
        """The mean over harmful training requests that are there as TEXT and as CB. Raises InputError when none is in both forms."""
        sites = layer_sites(mllm, first, mllm.n_layers - 1 if last < 0 else last)
        pairs = trace.labels.pairs
        texts, blanks = (rows_of(trace, attacks=(a,), harmful=True, what="fit CMRM's shift") for a in (Attack.TEXT, Attack.CB))
        shared = np.isin(pairs, np.intersect1d(pairs[texts], pairs[blanks]))
        if not shared.any():
            raise InputError("CMRM's shift needs training requests that are there both as TEXT and as CB, and none is.")
        found = {}
        for site in sites:
            states = trace.rows(site).astype(np.float64)
            found[site] = vector(states[texts & shared].mean(axis=0) - states[blanks & shared].mean(axis=0))
        return cls(found, Origin.of_trace(trace, "resid_post", "last_prompt"), **options)

    def guard(self, mllm: MLLM) -> None:
        """Raise UsageError when the shift belongs to another model."""
        self.origin.guard("shift of CMRM", mllm)

    @cached_property
    def _shared(self) -> tuple[Edit, ...]:
        return (self._edit({site: shift.double().numpy() for site, shift in self.shifts.items()}),)

    def _edit(self, shifts: Mapping[Site, np.ndarray]) -> Edit:
        moves: dict[Site, Any] = {}
        before: Any = 0.0
        for site, shift in shifts.items():
            moves[site] = vector(self.alpha * (shift - before))
            before = shift if self.increments else before
        return move_edit(moves, "cmrm", answer=self.answer)

    def edits_each(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[tuple[Edit, ...]]:
        """The shift for every request with a picture; none for text."""
        self.guard(mllm)
        pictured = [i for i, request in enumerate(requests) if request.image is not None]
        found: list[tuple[Edit, ...]] = [()] * len(requests)
        if self.level == "dataset":
            return [self._shared if request.image is not None else () for request in requests]
        if not pictured:
            return found
        some, sites = [requests[i] for i in pictured], list(self.shifts)
        plain = prompt_states(mllm, [replace(r, image=None) for r in some], sites, settings.batch_size)
        blank = prompt_states(mllm, [replace(r, image=_blank(r)) for r in some], sites, settings.batch_size)
        for row, place in enumerate(pictured):
            found[place] = (self._edit({site: plain[k, row] - blank[k, row] for k, site in enumerate(sites)}),)
        return found


def _blank(request: Request) -> BlankImage:
    """A white picture of the size of the request's own, so that it takes as many tokens."""
    assert request.image is not None
    width, height = request.image.load().size
    return BlankImage("white", width, height)
