"""Steering alone: the same edits on every request, with no probe that decides and no choice among candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safesteer_interp.code_digest import source_digest
from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.decoding.answering import DEFAULT_SAMPLING
from safesteer_interp.defenses.defense import Response, Settings, StagedDefense
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role, Site
from safesteer_interp.steering import edits, schedule
from safesteer_interp.steering.edits import add
from safesteer_interp.steering.schedule import Schedule, alignment_edit, at_sites
from safesteer_interp.tracing.tracer import Edit, Sampling
from safesteer_interp.vectors.alignment import CORRECTED_RULE, AlignmentVector, ApplicationRule
from safesteer_interp.vectors.direction import Direction


@dataclass(frozen=True, eq=False)
class Steered(StagedDefense):
    """Ordinary sampling under fixed edits; without any, the vanilla model. For dose-response curves: it never asks whether a request is
    harmful. Raises UsageError for an edit without a key, because its answers could not be told from another edit's."""

    name = "steered"
    given: tuple[Edit, ...] = ()
    """Edits of the forward pass, in order."""
    fitted: tuple[AlignmentVector | Direction, ...] = ()
    """What the edits were made of; each must belong to the model that answers."""

    def __post_init__(self) -> None:
        for edit in self.given:
            if not edit.key:
                raise UsageError(f'edit "{edit.name}" has no key, so answers under it cannot be stored; make it with `Schedule.edit`.')

    @classmethod
    def aligned(cls, vector: AlignmentVector, dose: float, rule: ApplicationRule = CORRECTED_RULE) -> Steered:
        """MSAV at its own site on the last prompt token: `dose` times the step of `rule`, |h0 - mean(CB)| along the unit vector.

        Under the default rule positive doses lead towards text, negative ones (the printed sign) towards image; 0 leaves the state to
        the bit.
        """
        return cls((alignment_edit(vector, rule, dose),), (vector,))

    @classmethod
    def along(cls, direction: Direction, dose: float, at: Site | str | None = None) -> Steered:
        """`dose` times the mean difference that `direction` was made of, added to the tokens that write the answer.

        Those are the last prompt token and every answer token; the prompt is read as it is. 0 leaves the states to the bit. `at` is the
        site, by default the direction's own.
        """
        change = add(direction, dose * direction.raw_norm / direction.residual_norm)
        sites = (direction.site,) if at is None else at_sites(at)
        parts = (Schedule(sites, last_prompt_only=True), Schedule(sites, frozenset({Role.GENERATED}), first_step=1))
        return cls(tuple(part.edit(change) for part in parts), (direction,))

    def edits(self, mllm: MLLM) -> Sequence[Edit]:
        """The edits, after checking that they belong to this model."""
        for part in self.fitted:
            part.guard(mllm)
        return self.given

    def fingerprint(self) -> str:
        """Hex digest of the edits' keys, which cover vector, strength and schedule, and of the code that makes edits."""
        record = {"defense": self.name, "edits": [[*map(str, edit.sites), edit.key] for edit in self.given]}
        return content_digest({**record, "code": [loaded_digest(type(self)), source_digest(edits, schedule)]}, "the steering")


def steer(
    mllm: MLLM,
    requests: Sequence[Request],
    direction: Direction | AlignmentVector,
    dose: float = 1.0,
    *,
    at: Site | str | None = None,
    sampling: Sampling = DEFAULT_SAMPLING,
    batch_size: int = 32,
) -> list[Response]:
    """The model's answers (`.text`, `.ids`) while it is pushed along a direction, one per request, in order.

    A dose of 1 adds the mean difference that a `Direction` was made of to the last prompt token and every answer token, at `at` (its
    own site by default); of an `AlignmentVector` it is the paper's step, towards text, at its own site on the last prompt token.
    Negative doses push the other way, 0 changes nothing. For other schedules and edits see `safesteer_interp.steering`.
    Raises UsageError for a direction of another model, or one that does not know its site when `at` is not given.
    """
    if isinstance(direction, AlignmentVector):
        direction.guard(mllm, at)
        defense = Steered.aligned(direction, dose)
    else:
        defense = Steered.along(direction, dose, at)
    return defense.respond(mllm, requests, Settings(sampling, batch_size))
