"""JRS-Rem (arXiv 2603.17372): take the jailbreak-related part out of what a picture adds to the last prompt token.

d = unit(mean state of harmful requests that were answered - mean state of those that were refused); dh = h(picture, text) - h(text);
where dh.d / |dh| > tau, the state is h - (dh.d) d, in the prompt pass, from which the first token is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.defenses.shifts import move_edit, prompt_states, vector
from safesteer_interp.defenses.training import layer_sites, layer_trace, rows_of
from safesteer_interp.errors import NotApplicableError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.types import Vector
from safesteer_interp.vectors.direction import mean_difference

PICTURES = (Attack.SD, Attack.TYPO, Attack.SD_TYPO, Attack.CB)
DEPTH = 19 / 32
"""Depth of the layer that the paper looks at most (layer 19 of LLaVA-1.5-7B)."""


@dataclass(frozen=True, eq=False)
class JRSRem(StagedDefense):
    """Jailbreak-related shift removal. Requests without a picture are answered as they are."""

    name = "jrs_rem"
    trained = True
    prepares = True
    directions: Mapping[Site, Vector]
    """Unit vectors [d] towards being answered."""
    origin: Origin
    tau: float = 0.2
    """Share of the shift along the direction above which it is removed."""

    def __post_init__(self) -> None:
        if not -1 <= self.tau <= 1:
            raise UsageError(f"tau of JRS-Rem is {self.tau}; it is a cosine, between -1 and 1.")

    @classmethod
    def build(cls, mllm: MLLM, training: Sequence[Request] = (), *, first: int = -1, last: int = -1, **options: Any) -> JRSRem:
        """`first`, `last`: the layers; -1: one at 19/32 of the depth."""
        return cls.from_trace(mllm, layer_trace(mllm, training), first=first, last=last, **options)

    @classmethod
    def from_trace(cls, mllm: MLLM, trace: Traced, *, first: int = -1, last: int = -1, **options: Any) -> JRSRem:
        """d from harmful training requests with a picture, by what the undefended model answered. The labels are refusal strings.

        Raises NotApplicableError when the model answered all of them, or refused all.
        """
        usual = min(mllm.n_layers - 1, round(DEPTH * mllm.n_layers))
        start = usual if first < 0 else first
        sites = layer_sites(mllm, start, start if last < 0 else last)
        asked = rows_of(trace, attacks=PICTURES, harmful=True, what="fit JRS-Rem's direction")
        refused = np.array([is_refusal(text) for text in trace.texts])
        sides = asked & ~refused, asked & refused
        if not all(side.any() for side in sides):
            raise NotApplicableError(
                f"{mllm.name} answered {int(sides[0].sum())} and refused {int(sides[1].sum())} of the harmful training pictures; JRS-Rem "
                "needs both to tell them apart. Give more with --training-pairs 0."
            )
        found = {}
        for site in sites:
            difference = mean_difference(trace.rows(site), *sides)
            found[site] = vector(difference / np.linalg.norm(difference))
        return cls(found, Origin.of_trace(trace, "resid_post", "last_prompt"), **options)

    def guard(self, mllm: MLLM) -> None:
        """Raise UsageError when the direction belongs to another model."""
        self.origin.guard("direction of JRS-Rem", mllm)

    def edits_each(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[tuple[Edit, ...]]:
        """The removal for each request whose picture moves it along d by more than tau."""
        self.guard(mllm)
        places = [i for i, request in enumerate(requests) if request.image is not None]
        found: list[tuple[Edit, ...]] = [()] * len(requests)
        if not places:
            return found
        some, sites = [requests[i] for i in places], list(self.directions)
        shown = prompt_states(mllm, some, sites, settings.batch_size)
        told = prompt_states(mllm, [replace(r, image=None) for r in some], sites, settings.batch_size)
        for row, place in enumerate(places):
            moves = {}
            for k, site in enumerate(sites):
                move = self.removal(site, shown[k, row] - told[k, row])
                if move is not None:
                    moves[site] = move
            found[place] = (move_edit(moves, "jrs_rem"),) if moves else ()
        return found

    def removal(self, site: Site, shift: np.ndarray) -> Vector | None:
        """-(dh.d) d [d] for a shift dh [d]; None where it is not jailbreak-related."""
        d = self.directions[site].double().numpy()
        along, size = float(shift @ d), float(np.linalg.norm(shift))
        return vector(-along * d) if size > 0 and along / size > self.tau else None
