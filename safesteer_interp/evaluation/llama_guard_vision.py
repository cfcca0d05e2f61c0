"""Llama Guard 3 Vision (11B) as a judge: it sees the picture, the request as it was asked, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.errors import InputError
from safesteer_interp.evaluation.judge import Judge, Verdict
from safesteer_interp.evaluation.llama_guard import parse
from safesteer_interp.models.dtypes import check_options
from safesteer_interp.models.fingerprint import fingerprint
from safesteer_interp.reasoning import strip_reasoning
from safesteer_interp.requests import Request


@dataclass(frozen=True)
class LlamaGuardVision(Judge):
    """Judges with the picture before it, so that the innocuous text beside an image attack is no hindrance. Gated, Meta's licence."""

    kind = "llama_guard_vision"
    costly = True
    model: str = "meta-llama/Llama-Guard-3-11B-Vision"
    """Folder or hub id."""
    device: str = "cpu"
    """Where it runs, e.g. "cuda"; changes no verdict."""
    dtype: str = "bfloat16"
    """float32, bfloat16 or float16."""

    def __post_init__(self) -> None:
        check_options(self, f'the judge "{self.kind}"')

    @property
    def name(self) -> str:
        """The last part of the model's name."""
        return self.model.rstrip("/").rsplit("/", 1)[-1]

    def fingerprint(self) -> str:
        """Hex digest of the code, the weights and the processor."""
        return content_digest({"code": loaded_digest(type(self)), "model": fingerprint(*self._loaded)}, "the judge Llama Guard Vision")

    def seen(self, request: Request) -> str:
        """Text and picture; the intent where there is no picture."""
        return request.intent if request.image is None else f"{request.text}\0{request.image.key()}"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(self.model)
            model = AutoModelForImageTextToText.from_pretrained(self.model, dtype=getattr(torch, self.dtype), use_safetensors=True)
        except (OSError, ValueError) as cause:
            raise InputError(
                f'the judge "{self.model}" cannot be loaded ({str(cause).splitlines()[0]}); '
                "accept its licence on the hub, or give the folder of a local copy."
            ) from None
        return model.to(self.device).eval(), processor

    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per answer, one at a time: greedy, at most 100 new tokens."""
        return [self._one(request, strip_reasoning(answer)) for request, answer in zip(requests, answers, strict=True)]

    def _one(self, request: Request, answer: str) -> Verdict:
        model, processor = self._loaded
        shown: list[dict[str, str]] = [{"type": "image"}] if request.image is not None else []
        text = request.text if request.image is not None else request.intent
        talk = [
            {"role": "user", "content": [*shown, {"type": "text", "text": text}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        prompt = processor.apply_chat_template(talk, tokenize=False)
        images = None if request.image is None else request.image.load()
        batch = processor(images=images, text=prompt, add_special_tokens=False, return_tensors="pt").to(self.device)
        with torch.no_grad():
            out = model.generate(**batch, max_new_tokens=100, do_sample=False)
        said = processor.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return parse(said)
