"""Judges that are language models on this machine: loading, batches, prompts cut to length."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.judge import Judge, Verdict
from safesteer_interp.models.fingerprint import fingerprint
from safesteer_interp.reasoning import strip_reasoning
from safesteer_interp.requests import Request

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LocalJudge(Judge):
    """A model that reads one prompt per answer, and whose next-token logits say what it thinks of it."""

    kind = "local"
    costly = True
    model: str = ""
    """Folder or hub id."""
    device: str = "cpu"
    """Where it runs, e.g. "cuda"; changes no verdict."""
    dtype: str = "bfloat16"
    """float32, bfloat16 or float16."""
    batch_size: int = 8
    """Answers judged at a time; changes no verdict."""
    longest: int = 512
    """Tokens of an answer that are read."""

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f'the judge "{self.kind}" has no dtype "{self.dtype}"; it is one of {", ".join(DTYPES)}.')
        if self.batch_size < 1 or self.longest < 1:
            raise UsageError(f'batch_size and longest of the judge "{self.kind}" must be at least 1.')

    @property
    def name(self) -> str:
        """The last part of the model's name."""
        return self.model.rstrip("/").rsplit("/", 1)[-1]

    def fingerprint(self) -> str:
        """Hex digest of the code, the weights and the length: a copy in another folder is the same judge."""
        record = {"code": loaded_digest(type(self)), "model": fingerprint(*self._loaded), "longest": self.longest}
        return content_digest(record, f'the judge "{self.kind}"')

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(self.model, dtype=getattr(torch, self.dtype), use_safetensors=True)
        except (OSError, ValueError) as cause:
            raise InputError(
                f'the judge "{self.model}" cannot be loaded ({str(cause).splitlines()[0]}); give the folder of a local copy in safetensors '
                "format, or a hub id."
            ) from None
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return model.to(self.device).eval(), tokenizer

    @abstractmethod
    def prompt(self, request: str, answer: str) -> str:
        """What the model reads of one request (its intent) and answer (cut to length, without reasoning)."""

    @abstractmethod
    def verdict(self, logits: Tensor) -> Verdict:
        """From next-token logits [vocab]."""

    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        """One verdict per answer, from one forward each."""
        return [self.verdict(row) for block in self._logits(requests, answers) for row in block]

    def _logits(self, requests: Sequence[Request], answers: Sequence[str]) -> Iterator[Tensor]:
        model, tokenizer = self._loaded
        for start in range(0, len(requests), self.batch_size):
            pairs = zip(requests[start : start + self.batch_size], answers[start : start + self.batch_size], strict=True)
            prompts = [self.prompt(request.intent, self._cut(strip_reasoning(answer))) for request, answer in pairs]
            batch = tokenizer(prompts, return_tensors="pt", padding=True).to(self.device)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                yield model(**inputs, logits_to_keep=1).logits[:, -1].float().cpu()

    def _cut(self, answer: str) -> str:
        tokenizer = self._loaded[1]
        ids = tokenizer(answer, add_special_tokens=False, truncation=True, max_length=self.longest)["input_ids"]
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    def token(self, word: str) -> int:
        """The one token of a word, as it follows the prompt. Raises InputError when the tokenizer has none."""
        tokenizer = self._loaded[1]
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids or ids[-1] == tokenizer.unk_token_id:
            raise InputError(f'the tokenizer of the judge "{self.model}" has no token "{word}"; "{self.kind}" needs another model.')
        return int(ids[-1])
