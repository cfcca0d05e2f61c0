"""A threshold on the probe with a bound on false interventions: the cheap strong baseline of decoding-time defenses.

Split conformal prediction (the bound of arXiv 2605.14746): the threshold is the k-th smallest probe score of n held-out harmless prompts,
k = ceil((n + 1)(1 - bound)). A harmless prompt that is exchangeable with them lies above it with probability `bound` at most, whatever
the probe is worth. Requests above it get a refusal; all others the model's own answer, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.decoding.policies import PLAIN, Candidates, Opening, Policy
from safesteer_interp.defenses.defense import Response, Settings, StagedDefense
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.paths import store_dir
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.probes.fits import fit_prompt
from safesteer_interp.probes.fitting import held_out, training_trace
from safesteer_interp.probes.tokens import SITE
from safesteer_interp.requests import Request
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Traced, fitting_rows
from safesteer_interp.types import States

REFUSAL = "I'm sorry, but I can't help with that."


@dataclass(frozen=True, eq=False)
class _Flagging:
    """Ordinary sampling that notes what the probe says of the prompt."""

    probe: DecodingProbe
    threshold: float
    k: int = 1
    steps: int = 0

    def begin(self, states: States) -> Opening:
        """States as they are; the verdict is whether the score lies above the threshold."""
        scores = self.probe.score_tensor(states).tolist()
        verdicts = [{"score": score, "flagged": score > self.threshold} for score in scores]
        return Opening(states, torch.zeros(len(states), dtype=torch.bool, device=states.device), verdicts)

    def choose(self, candidates: Candidates, uniform: Float[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch k"]]:
        """As plain sampling does."""
        return PLAIN.choose(candidates, uniform)


@dataclass(frozen=True, eq=False)
class Conformal(StagedDefense):
    """Refuses what the probe scores above a threshold that at most a share `bound` of harmless requests exceeds."""

    name = "conformal"
    trained = True
    probe: DecodingProbe
    threshold: float
    """Log-odds; infinite where too few harmless prompts were held out for the bound."""
    calibrated_on: int
    """Harmless prompts it was taken from."""
    bound: float = 0.05
    """Largest share of harmless requests that may be refused, in expectation."""
    refusal: str = REFUSAL

    def __post_init__(self) -> None:
        if not 0 < self.bound < 1:
            raise UsageError(f"the bound on false interventions is {self.bound}; it is a share between 0 and 1.")

    @classmethod
    def build(cls, mllm: MLLM, training: Sequence[Request] = (), **options: Any) -> Conformal:
        """Probe on the fit split, threshold on the validation split (a fifth of the pairs where there is none)."""
        if not training:
            raise UsageError("the conformal threshold is fitted on training requests, and none were given.")
        return cls.from_trace(mllm, training_trace(mllm, training, store=store_dir("traces")), **options)

    @classmethod
    def from_trace(cls, mllm: MLLM, trace: Traced, *, held: Traced | None = None, bound: float = 0.05, **options: Any) -> Conformal:
        """From a trace of training requests; `held` are others to take the threshold from. Raises InputError when none is harmless."""
        source = trace if held is None else held
        keep = held_out(trace.index) if held is None else np.ones(len(held), dtype=bool)
        fit = fitting_rows(trace.index) & ~keep if held is None else fitting_rows(trace.index)
        origin = Origin.of(mllm, SITE, "last_prompt", f"{int(fit.sum())} training requests")
        probe = fit_prompt(trace.rows(SITE, "last_prompt")[fit], trace.labels.harmful[fit], origin=origin)
        keep = keep & ~source.labels.harmful
        if not keep.any():
            raise InputError("the conformal threshold needs held-out harmless requests, and there are none; give others with --training.")
        scores = probe.decision_function(source.rows(SITE, "last_prompt")[keep])
        return cls(probe, conformal_threshold(scores, bound), int(keep.sum()), bound, **options)

    def guard(self, mllm: MLLM) -> None:
        """Raise UsageError when the probe belongs to another model."""
        self.probe.guard(mllm, SITE, "last_prompt")

    def policy(self, mllm: MLLM) -> Policy:
        """Ordinary sampling with the verdict noted."""
        self.guard(mllm)
        return _Flagging(self.probe, self.threshold)

    def review(self, mllm: MLLM, responses: list[Response], settings: Settings) -> list[Response]:
        """Answers to flagged requests replaced by the refusal."""
        ids = list(mllm.tokenizer(self.refusal, add_special_tokens=False)["input_ids"])
        return [replace(r, text=self.refusal, ids=ids) if r.verdict.get("flagged") else r for r in responses]

    def description(self) -> dict[str, Any]:
        """Bound, threshold and what it was taken from."""
        told = f"{self.calibrated_on} harmless prompts"
        if math.isinf(self.threshold):
            told += f": too few for this bound, which needs {needed(self.bound)}, so that nothing is refused"
        return {"bound": self.bound, "threshold": self.threshold, "calibrated on": told}

    def fingerprint(self) -> str:
        """Hex digest of the code, the probe and the threshold."""
        numbers = [self.probe.mean_, self.probe.weight_, self.probe.intercept_, self.threshold, self.refusal]
        return content_digest({"defense": self.name, "code": loaded_digest(type(self)), "numbers": numbers}, f'the defense "{self.name}"')


def needed(bound: float) -> int:
    """The fewest held-out scores that give a finite threshold."""
    return math.ceil((1 - bound) / bound - 1e-9)


def conformal_threshold(scores: Sequence[float] | np.ndarray, bound: float) -> float:
    """The ceil((n + 1)(1 - bound))-th smallest of n scores; infinite when n is too small for the bound."""
    ordered = np.sort(np.asarray(scores, dtype=float))
    rank = math.ceil((len(ordered) + 1) * (1 - bound) - 1e-9)
    return float(ordered[rank - 1]) if rank <= len(ordered) else math.inf
