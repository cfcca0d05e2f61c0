"""Refusal steering: the refusal direction of text added at one layer, for every request (activation addition of arXiv 2406.11717).

The direction is mean(harmful) - mean(harmless) of text prompts; the layer is the one that the paper's selection takes, by what editing
with it does on validation requests. Ungated, as published: it drives harmless requests into refusals as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from safesteer_interp.defenses.defense import Defense
from safesteer_interp.defenses.steered import Steered
from safesteer_interp.defenses.training import layer_trace
from safesteer_interp.errors import InputError, NotApplicableError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.openings import refusal_token_ids
from safesteer_interp.requests import Request, Split
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.steering.edits import add
from safesteer_interp.steering.schedule import Schedule
from safesteer_interp.steering.selection import select_refusal_direction
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.vectors.direction import Direction
from safesteer_interp.vectors.refusal import TEXT_ATTACKS, eligible, refusal_directions

CHOICE_SPLITS = (Split.VALIDATION, Split.FIT)
"""Where the layer may be chosen: the first of these that has harmful and harmless text."""


@dataclass(frozen=True, eq=False)
class RefusalSteering(Steered):
    """Adds `coefficient` mean differences at the direction's layer to every token of prompt and answer."""

    name = "refusal_steering"
    trained = True
    coefficient: float = 1.0
    layer: int = -1
    """Decoder layer whose output is moved; -1: chosen on validation requests (on the fit split where there are none)."""
    chosen_on: str = ""
    """The split that the layer was chosen on; empty: the layer was given."""

    @classmethod
    def build(
        cls,
        mllm: MLLM,
        training: Sequence[Request] = (),
        *,
        coefficient: float = 1.0,
        layer: int = -1,
        candidates: int = 8,
        validation_pairs: int = 4,
        **options: Any,
    ) -> Defense:
        """`candidates` layers, evenly spaced, are tried on `validation_pairs` pairs of text (0: all of both) when no layer is given."""
        return cls.from_trace(mllm, layer_trace(mllm, training), training, coefficient=coefficient, layer=layer,
                              candidates=candidates, validation_pairs=validation_pairs)  # fmt: skip

    @classmethod
    def from_trace(
        cls,
        mllm: MLLM,
        trace: Traced,
        training: Sequence[Request],
        *,
        coefficient: float = 1.0,
        layer: int = -1,
        candidates: int = 8,
        validation_pairs: int = 4,
        refusals: Sequence[int] = (),
    ) -> RefusalSteering:
        """From a trace of the training requests; `refusals`: the model's refusal tokens (none: those of published openings).

        Raises NotApplicableError when no layer's direction makes the model refuse, and InputError when a layer has to be chosen and there
        are no text requests to choose it on.
        """
        sites = [site for site in trace.sites if site.kind is SiteKind.RESID_POST]
        if layer >= 0:
            return cls.along_direction(refusal_directions(trace, sites=[Site(SiteKind.RESID_POST, layer)])[0], coefficient)
        found = eligible(refusal_directions(trace, sites=sites), mllm.n_layers)
        step = max(1, len(found) // candidates) if candidates else 1
        harmful, harmless = choice_requests(training, validation_pairs)
        chosen = select_refusal_direction(mllm, found[::step], harmful, harmless, refusals or refusal_token_ids(mllm))
        if chosen.chosen is None:
            raise NotApplicableError(
                f"no refusal direction of {mllm.name} makes it refuse without changing what it does with harmless requests; "
                "give refusal_steering:layer=N to use one all the same."
            )
        return replace(cls.along_direction(chosen.chosen, coefficient), chosen_on=str(harmful[0].split))

    @classmethod
    def along_direction(cls, direction: Direction, coefficient: float = 1.0) -> RefusalSteering:
        """`coefficient` of the mean difference that a direction was made of, at its own site, on all tokens."""
        change = add(direction, coefficient * direction.raw_norm / direction.residual_norm)
        edit: Edit = Schedule((direction.site,)).edit(change)
        return cls((edit,), (direction,), coefficient, int(direction.site.layer or 0))

    def description(self) -> dict[str, Any]:
        """The layer, what it was chosen on, the coefficient and the direction."""
        chosen = {"layer chosen on": f"{self.chosen_on} requests"} if self.chosen_on else {}
        return {"layer": self.layer, **chosen, "coefficient": self.coefficient, "direction": str(self.fitted[0])}


def choice_requests(training: Sequence[Request], pairs: int) -> tuple[list[Request], list[Request]]:
    """Harmful and harmless validation requests of text (of the fit split where there are none), some pairs of them.

    Raises InputError when neither split has both: nothing is chosen on the test split, which results are reported on.
    """
    by_split = [[r for r in training if r.attack in TEXT_ATTACKS and r.split is split] for split in CHOICE_SPLITS]
    held = next((own for own in by_split if len({r.harmful for r in own}) > 1), None)
    if held is None:
        raise InputError(
            "the layer of refusal_steering is chosen on harmful and harmless text requests (TEXT, CB) of the validation or the fit split, "
            "and there are none; give others with --training, or a layer with refusal_steering:layer=N."
        )
    sides = [r for r in held if r.harmful], [r for r in held if not r.harmful]
    names = [dict.fromkeys(r.pair for r in side) for side in sides]
    twins = [pair for pair in names[0] if pair in names[1]]
    kept = [set((twins or list(own))[: pairs or None]) for own in names]  # without twins, so many of each side
    harmful, harmless = ([r for r in side if r.pair in some] for side, some in zip(sides, kept, strict=True))
    return harmful, harmless
