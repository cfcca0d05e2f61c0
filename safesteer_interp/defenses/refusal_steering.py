"""Refusal steering: the refusal direction of text added at one layer, for every request (activation addition of arXiv 2406.11717).

The direction is mean(harmful) - mean(harmless) of text prompts; the layer is the one that the paper's selection takes, by what editing
with it does on validation requests. Ungated, as published: it drives harmless requests into refusals as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safesteer_interp.defenses.defense import Defense
from safesteer_interp.defenses.steered import Steered
from safesteer_interp.defenses.training import layer_trace
from safesteer_interp.errors import NotApplicableError
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


@dataclass(frozen=True, eq=False)
class RefusalSteering(Steered):
    """Adds `coefficient` mean differences at the direction's layer to every token of prompt and answer."""

    name = "refusal_steering"
    trained = True
    coefficient: float = 1.0
    layer: int = -1
    """Decoder layer whose output is moved; -1: chosen on validation requests."""

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

        Raises NotApplicableError when no layer's direction makes the model refuse.
        """
        sites = [site for site in trace.sites if site.kind is SiteKind.RESID_POST]
        if layer >= 0:
            return cls.along_direction(refusal_directions(trace, sites=[Site(SiteKind.RESID_POST, layer)])[0], coefficient)
        found = eligible(refusal_directions(trace, sites=sites), mllm.n_layers)
        step = max(1, len(found) // candidates) if candidates else 1
        harmful, harmless = _validation(training, validation_pairs)
        chosen = select_refusal_direction(mllm, found[::step], harmful, harmless, refusals or refusal_token_ids(mllm))
        if chosen.chosen is None:
            raise NotApplicableError(
                f"no refusal direction of {mllm.name} makes it refuse without changing what it does with harmless requests; "
                "give refusal_steering:layer=N to use one all the same."
            )
        return cls.along_direction(chosen.chosen, coefficient)

    @classmethod
    def along_direction(cls, direction: Direction, coefficient: float = 1.0) -> RefusalSteering:
        """`coefficient` of the mean difference that a direction was made of, at its own site, on all tokens."""
        change = add(direction, coefficient * direction.raw_norm / direction.residual_norm)
        edit: Edit = Schedule((direction.site,)).edit(change)
        return cls((edit,), (direction,), coefficient, int(direction.site.layer or 0))

    def description(self) -> dict[str, Any]:
        """The layer, the coefficient and the direction."""
        return {"layer": self.layer, "coefficient": self.coefficient, "direction": str(self.fitted[0])}


def _validation(training: Sequence[Request], pairs: int) -> tuple[list[Request], list[Request]]:
    """Harmful and harmless validation requests of text (of the fit split where there are none), some pairs of them."""
    texts = [r for r in training if r.attack in TEXT_ATTACKS]
    held = [r for r in texts if r.split is Split.VALIDATION] or texts
    kept = list(dict.fromkeys(r.pair for r in held))[: pairs or None]
    some = [r for r in held if r.pair in set(kept)]
    return [r for r in some if r.harmful], [r for r in some if not r.harmful]
