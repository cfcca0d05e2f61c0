"""Auxiliary questions that defenses put to the model they defend: greedy, short, with or without the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from safesteer_interp.defenses.defense import Response, Settings, answer, greedy
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request


def ask(
    mllm: MLLM, requests: Sequence[Request], texts: Sequence[str], settings: Settings, tokens: int, *, blind: bool = False
) -> list[str]:
    """What the model answers when each request says another text; `blind` takes the picture away. No special tokens in it."""
    asked = [with_text(mllm, request, text, blind=blind) for request, text in zip(requests, texts, strict=True)]
    found: list[Response] = answer(mllm, asked, greedy(settings, tokens)) if asked else []
    return [plain(mllm, response.text) for response in found]


def with_text(mllm: MLLM, request: Request, text: str, *, blind: bool = False) -> Request:
    """The request with another text, from which the tokenizer's special tokens are taken out, since it may quote the model."""
    return replace(request, text=plain(mllm, text) or " .", image=None if blind else request.image)


def plain(mllm: MLLM, text: str) -> str:
    """Generated text without the tokenizer's special tokens, which no request may contain."""
    for token in mllm.tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text
