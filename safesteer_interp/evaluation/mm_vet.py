"""MM-Vet's grading (arXiv 2308.02490): a model compares an answer with the right one and gives 0.0 to 1.0. The authors ask GPT-4."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from safesteer_interp.evaluation.endpoint import EndpointJudge
from safesteer_interp.evaluation.judge import Verdict
from safesteer_interp.reasoning import strip_reasoning
from safesteer_interp.requests import Request

QUESTION = (
    "Compare the right answer with the prediction, and give a correctness score for the prediction. <AND> in the right answer means that "
    "it is totally right only when all its elements are there, <OR> that any one of them is enough. The score is 0.0 (totally wrong), "
    "0.1, ..., 0.9, or 1.0 (totally right).\n\n"
    "Question: {request}\nRight answer: {reference}\nPrediction: {answer}\n\nAnswer with the score only."
)
"""The suite's own wording of the published instruction, without its examples; the authors' prompt can be given as `question`."""


@dataclass(frozen=True)
class MMVetGrader(EndpointJudge):
    """Grades the answers to data sets whose right answers are texts; says nothing of harm."""

    kind = "mm_vet"
    grades = True
    question: str = QUESTION
    """What is asked; must hold {request}, {reference} and {answer}."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Request id -> the right answer."""

    @property
    def name(self) -> str:
        """ "graded by NAME"."""
        return f"graded by {super().name}"

    def seen(self, request: Request) -> str:
        """The question and its right answer."""
        return f"{request.intent}\0{self.references.get(request.id, '')}"

    def parts(self, request: Request) -> dict[str, str]:
        """The right answer."""
        return {"reference": self.references.get(request.id, "")}

    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        """One verdict with a score per answer; none for a request whose right answer is not known."""
        known = [i for i, request in enumerate(requests) if request.id in self.references]
        found = dict(zip(known, super().judge([requests[i] for i in known], [answers[i] for i in known]), strict=True))
        return [found.get(i, Verdict(None, text="its right answer is not known")) for i in range(len(requests))]

    def read(self, said: str) -> Verdict:
        """The first number from 0 to 1; anything else is no grade."""
        number = re.search(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\d.]*\d)", strip_reasoning(said))
        return Verdict(None, text=said, score=float(number[0])) if number else Verdict(None, text=said)
