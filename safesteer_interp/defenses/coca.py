"""CoCA, constitutional calibration (arXiv 2409.11365): amplify what a safety principle in the prompt changes in the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safesteer_interp.decoding.generate import text_of
from safesteer_interp.decoding.loop import Decoded
from safesteer_interp.decoding.prefix import advance, prefill
from safesteer_interp.decoding.sharing import by_length
from safesteer_interp.defenses.defense import DEFAULTS, Defense, Response, Settings
from safesteer_interp.errors import UsageError
from safesteer_interp.models.head import output_logits
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.requests import Request
from safesteer_interp.tracing.sampling import draw, uniforms

PRINCIPLE = (
    "The assistant should answer in a harmless, ethical and inoffensive manner. "
    "The assistant cannot provide answers related to illegal activities."
)
"""Of the re-implementation in OmniSafeBench-MM; no official code was found."""


@dataclass(frozen=True)
class CoCA(Defense):
    """logits = with + alpha * (with - without): two branches, one with the principle before the request, fed the same answer tokens."""

    name = "coca"
    alpha: float = 4.0
    principle: str = PRINCIPLE
    plausibility: float = 0.0
    """Keep only tokens whose probability with the principle is at least this share of the largest (0: all; 0.1 is usual)."""

    def __post_init__(self) -> None:
        if not 0 <= self.plausibility <= 1:
            raise UsageError(f"plausibility is {self.plausibility}; it is a share of the largest probability, between 0 and 1.")

    def respond(self, mllm: MLLM, requests: Sequence[Request], settings: Settings = DEFAULTS) -> list[Response]:
        """One response per request; two forward passes a token, each with its own cache."""
        found: dict[int, Response] = {}
        for places in by_length(requests, settings.batch_size):
            answers = self._batch(mllm, [requests[i] for i in places], settings)
            for i, decoded in zip(places, answers, strict=True):
                found[i] = Response(requests[i], text_of(mllm, decoded), decoded.ids)
        return [found[i] for i in range(len(requests))]

    def _batch(self, mllm: MLLM, requests: list[Request], settings: Settings) -> list[Decoded]:
        model, sampling = mllm.model, settings.sampling
        principled = [replace(request, text=f"{self.principle} {request.text}") for request in requests]
        branches = [prefill(model, mllm.encode(asked).to(mllm.device).inputs) for asked in (principled, requests)]
        prefixes, states = [prefix for prefix, _ in branches], [state for _, state in branches]
        uniform = uniforms([r.key() for r in requests], [sampling.seed] * len(requests), sampling.max_new_tokens)
        ends = stop_ids(mllm) if settings.stop else frozenset()
        answers, rows = [Decoded() for _ in requests], torch.arange(len(requests))
        for step in range(sampling.max_new_tokens):
            with torch.no_grad():
                logits = self.calibrated(*(output_logits(model, state) for state in states))
            tokens = draw(logits, uniform[rows, step], sampling.temperature)
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                answers[row].ids.append(token)
            going = torch.tensor([i for i, token in enumerate(tokens.tolist()) if token not in ends], dtype=torch.long)
            if not len(going) or step + 1 == sampling.max_new_tokens:
                break
            if len(going) < len(rows):
                rows = rows[going]
                for prefix in prefixes:
                    prefix.keep_rows(going)
            kept = tokens[going.to(tokens.device)]
            states = [advance(model, prefix, kept) for prefix in prefixes]
        return answers

    def calibrated(self, principled: Tensor, plain: Tensor) -> Tensor:
        """Next-token logits [batch, vocab] from those of the two branches."""
        logits = principled + self.alpha * (principled - plain)
        if self.plausibility:
            probabilities = torch.softmax(principled, -1)
            logits = logits.masked_fill(probabilities < self.plausibility * probabilities.max(-1, keepdim=True).values, -torch.inf)
        return logits
