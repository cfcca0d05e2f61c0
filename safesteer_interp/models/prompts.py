"""The prompt a model is given for a request, before its picture is expanded: what keys of stored results are made of."""

from __future__ import annotations

from collections.abc import Sequence

from safesteer_interp.models.encoding import _adds_special, _around, _check, _frame, _prompt, _reserved
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request


def prompt_frame(mllm: MLLM, has_image: bool) -> tuple[str, str]:
    """What the chat template writes before and after the user's text, rendered now: a template may print today's date."""
    frame = _frame(mllm, has_image)
    return frame.head, frame.tail


def prompt_ids(mllm: MLLM, requests: Sequence[Request]) -> list[list[int]]:
    """Token ids of every rendered prompt, a picture as its one placeholder: no image is opened.

    Raises InputError, naming the request, where `encode` would: special tokens in its text, a template that changes it, a picture
    that the model does not take.
    """
    before, after = _around(mllm)
    reserved = _reserved(mllm)
    frames = {has_image: _frame(mllm, has_image) for has_image in {r.image is not None for r in requests}}
    prompts = []
    for request in requests:
        _check(mllm, request, reserved)
        prompts.append(before + _prompt(mllm, request, frames[request.image is not None])[0] + after)
    if not prompts:
        return []
    return [list(ids) for ids in mllm.tokenizer(prompts, add_special_tokens=_adds_special(mllm, prompts[0]))["input_ids"]]
