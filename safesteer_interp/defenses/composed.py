"""Several defenses at once, as one: rewriting in order, all edits, the policy and the contrast of the one that has one, review in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safesteer_interp.decoding.policies import PLAIN, Policy
from safesteer_interp.decoding.sharing import Combine, Tilt
from safesteer_interp.defenses.defense import Defense, Response, Settings, StagedDefense, is_staged
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.types import Logits


@dataclass(frozen=True, eq=False)
class Composed(StagedDefense, unnamed=True):
    """The first part rewrites first and reviews first. Raises UsageError for a part that is not made of stages."""

    parts: tuple[Defense, ...]

    def __post_init__(self) -> None:
        self.check_parts([type(part) for part in self.parts])

    @property
    def name(self) -> str:  # type: ignore[override]  # of its parts, so an instance's
        """The parts' names joined by "+"."""
        return "+".join(part.name for part in self.parts)

    @classmethod
    def check_parts(cls, parts: Sequence[type[Defense]]) -> None:
        """Raises UsageError for a part that answers by itself, and for fewer than two."""
        if len(parts) < 2:
            raise UsageError("a composition needs two defenses or more.")
        alone = [part for part in parts if not is_staged(part)]
        if alone:
            raise UsageError(
                f"{alone[0].__name__} answers as a whole and cannot be composed; only defenses made of stages (rewriting, edits, policy, "
                "contrast, tilt, review) can."
            )

    @property
    def stages(self) -> tuple[StagedDefense, ...]:
        """The parts, all of which are staged."""
        return tuple(part for part in self.parts if isinstance(part, StagedDefense))

    @property
    def prepares(self) -> bool:  # type: ignore[override]  # of its parts
        """Whether a part asks the model before it answers."""
        return any(part.prepares for part in self.stages)

    def rewrite(self, mllm: MLLM, request: Request) -> Request:
        """Rewritten by every part in turn."""
        for part in self.stages:
            request = part.rewrite(mllm, request)
        return request

    def rewrites(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[Request]:
        """Rewritten by every part in turn."""
        found = list(requests)
        for part in self.stages:
            found = part.rewrites(mllm, found, settings)
        return found

    def edits(self, mllm: MLLM) -> Sequence[Edit]:
        """The edits of all parts, in order."""
        return [edit for part in self.stages for edit in part.edits(mllm)]

    def edits_each(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[tuple[Edit, ...]]:
        """The edits of all parts for each request, in order. Each part measures the model as it is, not as the others edit it."""
        found = [part.edits_each(mllm, requests, settings) for part in self.stages]
        return [tuple(edit for own in each for edit in own) for each in zip(*found, strict=True)]

    def policy(self, mllm: MLLM) -> Policy:
        """The policy of the one part that has one. Raises UsageError when two guide."""
        policies = [(part.name, part.policy(mllm)) for part in self.stages]
        guiding = [(name, policy) for name, policy in policies if policy is not PLAIN]
        if len(guiding) > 1:
            raise UsageError(f"{' and '.join(name for name, _ in guiding)} both choose the tokens; compose only one of them.")
        return guiding[0][1] if guiding else PLAIN

    def policies(self, mllm: MLLM, requests: Sequence[Request]) -> Sequence[Policy]:
        """Those of the one part that guides."""
        self.policy(mllm)  # at most one
        for part in self.stages:
            found = part.policies(mllm, requests)
            if any(policy is not PLAIN for policy in found):
                return found
        return [PLAIN] * len(requests)

    def contrast(self, mllm: MLLM) -> Combine | None:
        """The contrast of the one part that has one. Raises UsageError when two do."""
        found = [(part.name, combine) for part in self.stages if (combine := part.contrast(mllm)) is not None]
        if len(found) > 1:
            raise UsageError(f"{' and '.join(name for name, _ in found)} both contrast two readings; compose only one of them.")
        return found[0][1] if found else None

    def readings(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> tuple[list[Request], list[Request]]:
        """Rewritten by every part, and by every part but the one that contrasts: the two differ in what that one adds.

        Parts before it are asked once for both; those after it see two requests.
        """
        found = plain = list(requests)
        for part in self.stages:
            if part.contrast(mllm) is not None:
                found, plain = part.readings(mllm, plain, settings)  # only one part contrasts, so that they were the same until here
            elif found is plain:
                found = plain = part.rewrites(mllm, found, settings)
            else:
                both = part.rewrites(mllm, [*found, *plain], settings)
                found, plain = both[: len(found)], both[len(found) :]
        return found, plain

    def tilt(self, mllm: MLLM) -> Tilt | None:
        """The tilts of all parts, in order."""
        found = [tilt for part in self.stages if (tilt := part.tilt(mllm)) is not None]
        if len(found) < 2:
            return found[0] if found else None

        def all_of_them(logits: Logits, answered: Sequence[int]) -> Logits:
            for tilt in found:
                logits = tilt(logits, answered)
            return logits

        return all_of_them

    def review(self, mllm: MLLM, responses: list[Response], settings: Settings) -> list[Response]:
        """Reviewed by every part in turn. What a review asks of the model besides is asked of it as it is."""
        for part in self.stages:
            responses = part.review(mllm, responses, settings)
        return responses
