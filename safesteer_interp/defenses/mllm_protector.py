"""MLLM-Protector (arXiv 2401.02906): a detector reads the finished answer, and a detoxifier rewrites what it calls harmful.

The released detector was trained on question and answer but is shown the answer alone; that mismatch is kept unless `matched`. Where
no released weights are given, the detector is a small classifier of words fitted on this model's own answers to training requests (in
the form it will be shown), and the rewriter is the release's fallback, a refusal: a *detector-filter* in the manner of MLLM-Protector,
and described so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from safesteer_interp.defenses.defense import Defense, Response, Settings, StagedDefense
from safesteer_interp.defenses.harm_detector import WordDetector
from safesteer_interp.defenses.released_protector import ReleasedDetector, ReleasedDetoxifier
from safesteer_interp.defenses.training import layer_trace
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.reasoning import strip_reasoning
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Request
from safesteer_interp.tracing.trace import Traced, fitting_rows

FALLBACK = "Sorry, but I can't help you with your request."
"""What the release says where there is no detoxifier."""
PAIR = "Question: {question}\n\nAnswer: {answer}"
"""What the released detector was trained on."""


@runtime_checkable
class Detector(Protocol):
    """Says how probably each text is harmless."""

    def harmless(self, texts: Sequence[str]) -> list[float]: ...


@runtime_checkable
class Detoxifier(Protocol):
    """Rewrites texts."""

    def rewrite(self, texts: Sequence[str]) -> list[str]: ...


@dataclass(frozen=True, eq=False)
class MLLMProtector(StagedDefense):
    """Reviews every answer; one that the detector calls safe is never changed."""

    name = "mllm_protector"
    trained = True
    judge: Detector
    rewriter: Detoxifier | None = None
    """None: the fallback sentence."""
    threshold: float = 0.5
    """Probability of being harmless below which an answer is rewritten."""
    matched: bool = False
    """Show the detector question and answer, as it was trained; False: the answer alone, as released."""
    fallback: str = FALLBACK

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"the threshold of MLLM-Protector is {self.threshold}; it is a probability, between 0 and 1.")

    @classmethod
    def build(
        cls,
        mllm: MLLM,
        training: Sequence[Request] = (),
        *,
        detector: str = "",
        detoxifier: str = "",
        device: str = "cpu",
        dtype: str = "bfloat16",
        mismatch: bool = False,
        **options: Any,
    ) -> Defense:
        """`detector`, `detoxifier`: folders or hub ids of the released weights, e.g. renjiepi/protector_detector_3b_lora.

        `mismatch`: fit the detector of words on question and answer although it is shown the answer alone, to measure what the release's
        mismatch costs.
        """
        rewriter = ReleasedDetoxifier(detoxifier, device, dtype) if detoxifier else None
        if detector:
            return cls(ReleasedDetector(detector, device, dtype), rewriter, **options)
        return cls.from_trace(mllm, layer_trace(mllm, training), rewriter=rewriter, mismatch=mismatch, **options)

    @classmethod
    def from_trace(
        cls, mllm: MLLM, trace: Traced, *, rewriter: Detoxifier | None = None, mismatch: bool = False, **options: Any
    ) -> MLLMProtector:
        """With a detector fitted on the undefended answers in a trace of training requests.

        An answer counts as harmful when it answers a harmful request; refusals and answers to harmless requests are harmless.
        """
        fit, texts = fitting_rows(trace.index), np.array(trace.texts, dtype=object)
        harmful = trace.labels.harmful & np.array([not is_refusal(text) for text in texts])
        pairs = mismatch or bool(options.get("matched"))
        shown = [_shown(question, text) if pairs else text for question, text in zip(_texts(trace), texts, strict=True)]
        wanted = np.flatnonzero(fit)
        origin = f"{mllm.name}'s own answers to {len(wanted)} training requests"
        fitted = WordDetector.fit([shown[i] for i in wanted], [bool(harmful[i]) for i in wanted], origin)
        return cls(fitted, rewriter, **options)

    def review(self, mllm: MLLM, responses: list[Response], settings: Settings) -> list[Response]:
        """Answers that the detector calls harmful are rewritten; the others stay as they are, to the bit."""
        visible = [strip_reasoning(response.text) for response in responses]
        texts = [_shown(r.request.text, text) if self.matched else text for r, text in zip(responses, visible, strict=True)]
        scores = self.judge.harmless(texts)
        harmful = [i for i, score in enumerate(scores) if score < self.threshold]
        rewritten = self.rewriter.rewrite([visible[i] for i in harmful]) if self.rewriter and harmful else [self.fallback] * len(harmful)
        found = [replace(r, verdict=r.verdict | {"harmless": score}) for r, score in zip(responses, scores, strict=True)]
        for i, text in zip(harmful, rewritten, strict=True):
            ids = list(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])
            found[i] = replace(found[i], text=text, ids=ids, verdict=found[i].verdict | {"rewritten": True})
        return found

    def description(self) -> dict[str, Any]:
        """Which detector and rewriter are at work, named as what they are."""
        if isinstance(self.judge, WordDetector):
            judge = f"detector-filter: logistic regression on {len(self.judge.words)} words, fitted on {self.judge.trained_on}"
        else:
            judge = getattr(self.judge, "model", type(self.judge).__name__)
        rewriter = "fixed refusal" if self.rewriter is None else getattr(self.rewriter, "model", type(self.rewriter).__name__)
        return {"detector": judge, "rewriter": rewriter, "threshold": self.threshold, "matched": self.matched}


def _shown(question: str, answer: str) -> str:
    return PAIR.replace("{question}", question).replace("{answer}", answer)


def _texts(trace: Traced) -> list[str]:
    """The requests' texts where the trace knows them (a view does); else nothing is shown of them."""
    requests: Sequence[Request] | None = getattr(trace, "requests", None)
    known = isinstance(requests, list) and all(isinstance(r, Request) for r in requests)
    return [r.text for r in requests] if known and requests is not None else [""] * len(trace)
