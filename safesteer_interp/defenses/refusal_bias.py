"""A bias on refusal words: the control that every defense which makes refusals likelier has to beat.

It knows nothing of the request. The logits of the tokens a refusal may start with are raised by one number at the first steps of every
answer, which raises their log-odds by exactly that number, for harmful and harmless requests alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from safesteer_interp.decoding.sharing import Tilt
from safesteer_interp.defenses.defense import StagedDefense
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.openings import refusal_token_ids
from safesteer_interp.types import Logits


@dataclass(frozen=True)
class RefusalBias(StagedDefense):
    """Raises the logits of first refusal tokens by `bias` nats at the first `steps` tokens of an answer. Raises UsageError for a bias that
    is not finite and for fewer than 1 step."""

    name = "refusal_bias"
    bias: float = 4.0
    """Nats of log-odds; negative ones make refusals rarer."""
    steps: int = 1
    """Answer tokens that are biased."""
    tokens: tuple[int, ...] = ()
    """Ids of the refusal tokens; none: the first tokens of the published openings."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise UsageError(f"`bias` of refusal_bias is {self.bias}; give a number of nats.")
        if self.steps < 1:
            raise UsageError(f"`steps` of refusal_bias is {self.steps}; bias at least 1 token.")

    def tilt(self, mllm: MLLM) -> Tilt:
        """The bias on the refusal tokens, while an answer is short enough."""
        tokens = torch.tensor(self.tokens or refusal_token_ids(mllm))

        def biased(logits: Logits, answered: Sequence[int]) -> Logits:
            rows = torch.tensor([n < self.steps for n in answered], device=logits.device)
            out = logits.clone()
            out[:, tokens.to(logits.device)] += self.bias * rows[:, None].to(logits.dtype)
            return out

        return biased
