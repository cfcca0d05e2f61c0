"""Choice: how a token is drawn among scored candidates, softmax(log p + beta * z).

The paper (arXiv 2605.11716 eq. 6) draws from softmax(s) and leaves the model's probabilities out; it prints neither the temperature of
that choice, nor K, nor the number of guided steps, nor the solver whose penalty sets the scale of s. Here z is the score in units of
its spread among the candidates of training prompts, so that beta means the same for every probe: 0 is top-K sampling, infinity
takes the best candidate (RDS, arXiv 2410.06809), and the paper's rule is one named setting, `PAPER`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from safesteer_interp.errors import UsageError


@dataclass(frozen=True)
class Choice:
    """Raises UsageError for a negative beta or a spread that is not above 0."""

    beta: float = 1.0
    """Weight of the score, in nats per unit of z; 0: the model alone, inf: the best score (the model decides among equal ones)."""
    score_only: bool = False
    """Leave log p out, as the paper does: the model only says which K tokens are candidates."""
    spread: float = 1.0
    """Standard deviation of scores among the candidates of one step on training prompts: z = s / spread. 1 leaves s as it is."""

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise UsageError(f"`beta` of guided decoding is {self.beta}; it must be 0 or more (inf takes the best candidate).")
        if not (self.spread > 0 and math.isfinite(self.spread)):
            raise UsageError(f"the spread of a probe's scores among candidates is {self.spread}; it must be above 0.")

    def logits(self, log_probs: Float[Tensor, "batch k"], scores: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
        """What the softmax over the K candidates is taken of, at temperature 1."""
        prior = torch.zeros_like(log_probs) if self.score_only else log_probs
        if math.isinf(self.beta):
            return torch.where(scores == scores.max(dim=-1, keepdim=True).values, prior, -math.inf)
        return prior + (self.beta / self.spread) * scores.to(prior)

    def __str__(self) -> str:
        unit = "s" if self.spread == 1.0 else f"s/{self.spread:.3g}"
        return f"softmax({'' if self.score_only else 'log p + '}{self.beta:g} {unit})"


PAPER = Choice(beta=1.0, score_only=True)
"""eq. 6 as printed: softmax(s)."""
