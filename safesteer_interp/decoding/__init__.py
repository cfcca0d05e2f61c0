"""Decoding: how answers are written, token by token.

- `generate`: answers to requests under a policy and edits
- `DEFAULT_SAMPLING`: 128 tokens at temperature 1, as in the paper
- `text_of`: an answer as text
- `Decoded`: one answer: its text, tokens and guided steps
- `StepRecord`: one guided step
- `Policy`: how the next token is chosen
- `PLAIN`: ordinary sampling
- `Guided`: re-ranks the top K candidates by a score
- `Choice`: how the score and the model's probabilities are weighed
- `Scorer`: gives candidates a score
- `Candidates`: what a scorer sees
- `ProbeScorer`: the probe's
- `RandomScorer`: its control: a random direction
- `RefusalTokens`: its control: refusal openings as strings
- `guided_generate`: a policy as transformers' `custom_generate`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach, moved

if TYPE_CHECKING:
    from safesteer_interp.decoding.answering import DEFAULT_SAMPLING, generate, text_of
    from safesteer_interp.decoding.choice import Choice
    from safesteer_interp.decoding.custom_generate import guided_generate
    from safesteer_interp.decoding.loop import Decoded, StepRecord
    from safesteer_interp.decoding.policies import PLAIN, Candidates, Guided, Policy, ProbeScorer, RandomScorer, RefusalTokens, Scorer

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "answering": ("generate", "DEFAULT_SAMPLING", "text_of"),
        "loop": ("Decoded", "StepRecord"),
        "choice": ("Choice",),
        "policies": ("Policy", "PLAIN", "Guided", "Scorer", "Candidates", "ProbeScorer", "RandomScorer", "RefusalTokens"),
        "custom_generate": ("guided_generate",),
    },
)

moved("safesteer_interp.decoding.generate", "safesteer_interp.decoding.answering")
