"""CoCA, constitutional calibration (arXiv 2409.11365): amplify what a safety principle in the prompt changes in the logits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from safesteer_interp.decoding.sharing import Combine
from safesteer_interp.defenses.defense import StagedDefense
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.types import Logits

PRINCIPLE = (
    "The assistant should answer in a harmless, ethical and inoffensive manner. "
    "The assistant cannot provide answers related to illegal activities."
)
"""Of the re-implementation in OmniSafeBench-MM; no official code was found."""


@dataclass(frozen=True)
class CoCA(StagedDefense):
    """logits = with + alpha * (with - without): two branches, one with the principle before the request, fed the same answer tokens.

    Two forward passes a token, each with its own cache. With `alpha` 0 it is the model that was told the principle.
    """

    name = "coca"
    alpha: float = 4.0
    principle: str = PRINCIPLE
    plausibility: float = 0.0
    """Keep only tokens whose probability with the principle is at least this share of the largest (0: all; 0.1 is usual)."""

    def __post_init__(self) -> None:
        if not 0 <= self.plausibility <= 1:
            raise UsageError(f"plausibility is {self.plausibility}; it is a share of the largest probability, between 0 and 1.")

    def rewrite(self, mllm: MLLM, request: Request) -> Request:
        """The request behind the principle."""
        return replace(request, text=f"{self.principle} {request.text}")

    def contrast(self, mllm: MLLM) -> Combine:
        """`calibrated`."""
        return self.calibrated

    def calibrated(self, principled: Logits, plain: Logits) -> Logits:
        """Next-token logits [batch, vocab] from those of the two branches."""
        logits = principled + self.alpha * (principled - plain)
        if self.plausibility:
            probabilities = torch.softmax(principled, -1)
            logits = logits.masked_fill(probabilities < self.plausibility * probabilities.max(-1, keepdim=True).values, -torch.inf)
        return logits
