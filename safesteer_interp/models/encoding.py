"""Requests to batches: chat template, image expansion, left padding, and the role of every token.

Roles come by construction, never by searching for words. The template is rendered once with sentinel texts, which tells what it
writes before and after the system and the user text; the same frame must then fit the rendering of each real request, so the span
of the user's text is known even when it repeats the template's words. Spans are carried through the image expansion and mapped to
tokens by the tokenizer's character offsets; image tokens are known by their id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from torch import Tensor
from transformers import BatchFeature

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.context_length import warn_beyond_context
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role
from safesteer_interp.types import Mask

_SYSTEM, _USER = "\ue000system\ue001", "\ue002user\ue003"  # private-use characters: no real request or template contains them
_PER_TOKEN = ("mm_token_type_ids", "token_type_ids")


@dataclass(frozen=True)
class _Frame:
    """What the template writes around the user's text, with the span of the system text inside `head`."""

    head: str
    tail: str
    system: tuple[int, int]


@dataclass
class _Row:
    """One tokenized prompt before padding."""

    ids: np.ndarray
    roles: np.ndarray
    extra: dict[str, np.ndarray]


def encode(mllm: MLLM, requests: Sequence[Request], *, pad_to: int | None = None) -> Encoded:
    """Chat-templated, left-padded batch on the model's device, with the role of every token.

    Requests with and without image may be mixed; `pad_to` fixes the padded length (in tokens). `position_ids` count real tokens only;
    for multimodal rotary positions (Qwen-VL) they are left to the model whenever an image is in the batch (`prompt_positions` gives them).

    Raises:
        InputError: a request has an image and the model takes none, its text contains one of the tokenizer's special tokens, the
            chat template changes the text, or a prompt is longer than `pad_to`. One longer than the model's context is warned of.
    """
    requests = tuple(requests)
    if not requests:
        raise UsageError("nothing to encode: the list of requests is empty.")
    tokenizer = mllm.tokenizer
    if not tokenizer.is_fast:
        raise InputError(f"{mllm.name}: its tokenizer {type(tokenizer).__name__} gives no character offsets; a tokenizer.json is needed.")
    reserved = _reserved(mllm)
    for request in requests:
        _check(mllm, request, reserved)
    frames = {has_image: _frame(mllm, has_image) for has_image in {r.image is not None for r in requests}}
    rows: dict[int, _Row] = {}
    features: dict[str, Tensor] = {}
    for has_image, frame in frames.items():
        members = [i for i, r in enumerate(requests) if (r.image is not None) == has_image]
        prompts, spans = zip(*(_prompt(mllm, requests[i], frame) for i in members), strict=True)
        if has_image:
            images = [[requests[i].image.load()] for i in members]  # type: ignore[union-attr]
            encoded, features = _with_images(mllm, list(prompts), images)
            spans = tuple(_moved(mllm, span, encoded["replaced"][k]) for k, span in enumerate(spans))
        else:
            encoded = _without_images(mllm, list(prompts))
        for k, i in enumerate(members):
            rows[i] = _row(mllm, encoded, k, spans[k], frame)
    warn_beyond_context(mllm, requests, [len(rows[i].ids) for i in range(len(requests))])
    return _padded(mllm, requests, [rows[i] for i in range(len(requests))], features, pad_to)


def prompt_positions(mllm: MLLM, batch: Encoded) -> Tensor:
    """Rotary positions of the prompt: [batch, sequence], or [4, batch, sequence] (text, time, height, width) for Qwen-VL.

    Computed afresh, leaving no state on the module (transformers keeps `rope_deltas` of an earlier batch there). The next token's
    position is the last column plus one, in every row.
    """
    text = _positions(batch.attention_mask)
    if not mllm.layout.mrope:
        return text
    if "image_grid_thw" not in batch.inputs:
        return text[None].expand(4, -1, -1).clone()
    inputs = {k: v for k, v in batch.inputs.items() if k in ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")}
    vision, _ = mllm.model.model.get_rope_index(**inputs)
    return torch.cat([text[None], vision.to(text)])


def template_of(mllm: MLLM) -> str:
    """The chat template in use: the checkpoint's own, else the family's."""
    own = getattr(mllm.processor, "chat_template", None) or mllm.tokenizer.chat_template
    if isinstance(own, dict):
        own = own.get("default")
    if own := own or mllm.layout.template:
        return str(own)
    raise InputError(f'{mllm.name} has no chat template; add a "chat_template" to its tokenizer_config.json.')


def _render(mllm: MLLM, text: str, system: str | None, has_image: bool) -> str:
    """The prompt as a string, ready for the answer, image placeholder included."""

    def content(words: str, image: bool) -> Any:
        if not mllm.takes_images:
            return words
        return [{"type": "image"}] * image + [{"type": "text", "text": words}]

    turns = [{"role": "system", "content": content(system, False)}] if system is not None else []
    turns.append({"role": "user", "content": content(text, has_image)})
    try:
        rendered = mllm.tokenizer.apply_chat_template(turns, chat_template=template_of(mllm), tokenize=False, add_generation_prompt=True)
    except TemplateError as cause:
        raise InputError(f"the chat template of {mllm.name} cannot render a request ({cause}); check its system prompt.") from None
    return str(rendered)


def _frame(mllm: MLLM, has_image: bool) -> _Frame:
    """Render sentinels to learn what the template writes around the texts, and where the system text stands."""
    system = mllm.system_prompt
    plain = _render(mllm, _USER, system, has_image)
    if plain.count(_USER) != 1:
        raise InputError(f"the chat template of {mllm.name} writes the user's text {plain.count(_USER)} times; exactly once was expected.")
    head, tail = plain.split(_USER)
    span = (0, 0)
    try:
        marked = _render(mllm, _USER, _SYSTEM, has_image)
    except InputError:  # a template may refuse a system turn altogether
        marked = ""
    if marked.count(_SYSTEM) == 1 and marked.find(_SYSTEM) < marked.find(_USER):
        before, rest = marked.split(_SYSTEM)
        after = rest.split(_USER)[0]
        if head.startswith(before) and head.endswith(after) and len(head) > len(before) + len(after):
            span = (len(before), len(head) - len(after))  # the default system text of a template is found the same way
    if system is not None and system.strip() not in head[slice(*span)]:
        raise InputError(f"the chat template of {mllm.name} takes no system turn; load the model without a system prompt.")
    return _Frame(head, tail, span)


def _prompt(mllm: MLLM, request: Request, frame: _Frame) -> tuple[str, tuple[int, int]]:
    """The rendered prompt and the span of the user's text in it."""
    prompt = _render(mllm, request.text, mllm.system_prompt, request.image is not None)
    start, end = len(frame.head), len(prompt) - len(frame.tail)
    written = prompt[start:end]
    if not (prompt.startswith(frame.head) and prompt.endswith(frame.tail) and written.strip() == request.text.strip()):
        raise InputError(f'request "{request.id}": the chat template of {mllm.name} changes its text; reword it.')
    return prompt, (start, end)


def _reserved(mllm: MLLM) -> re.Pattern[str]:
    """Matches any special token of the tokenizer, spelled out in a text."""
    tokenizer = mllm.tokenizer
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special} | set(tokenizer.all_special_tokens)
    return re.compile("|".join(re.escape(word) for word in sorted(special)) or r"(?!)")


def _check(mllm: MLLM, request: Request, reserved: re.Pattern[str]) -> None:
    """Refuse what would silently become something else: an image nobody sees, or text that tokenizes to a special token."""
    if request.image is not None and not mllm.takes_images:
        raise InputError(f'request "{request.id}" has an image, but {mllm.name} is a text-only model; choose an MLLM or drop the image.')
    if found := reserved.search(request.text):
        raise InputError(
            f'request "{request.id}": its text contains "{found[0]}", a special token of {mllm.name}; remove it or spell it differently.'
        )


def _adds_special(mllm: MLLM, prompt: str) -> bool:
    """Whether the tokenizer itself should add its BOS: as `apply_chat_template` does, never on top of a template that wrote one."""
    bos = mllm.tokenizer.bos_token
    return mllm.takes_images and mllm.layout.around_text is None and not (bos is not None and prompt.startswith(bos))


def _with_images(mllm: MLLM, prompts: list[str], images: list[Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(tokenizer outputs with offsets and replacements, image tensors) of prompts that have one image each."""
    try:
        out = mllm.processor(
            text=prompts,
            images=images,
            padding=True,  # PaliGemma's processor cannot build its labels from rows of unequal length; the pads are cut off below
            add_special_tokens=_adds_special(mllm, prompts[0]),
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
        )
    except ValueError as cause:
        raise InputError(f"{mllm.name}: its processor cannot encode these images ({cause}).") from None
    per_token = ("input_ids", "attention_mask", "offset_mapping", "labels", *_PER_TOKEN)
    real = [np.asarray(row, dtype=bool) for row in out["attention_mask"]]
    encoded: dict[str, Any] = {
        name: [np.asarray(row)[keep] for row, keep in zip(out[name], real, strict=True)]
        for name in ("input_ids", "offset_mapping", *_PER_TOKEN)
        if name in out
    }
    encoded["replaced"] = out["text_replacement_offsets"]
    features = BatchFeature({k: v for k, v in out.items() if k not in per_token and k != "text_replacement_offsets"}, tensor_type="pt")
    return encoded, dict(features)


def _without_images(mllm: MLLM, prompts: list[str]) -> dict[str, Any]:
    """Tokenizer outputs of prompts without image; processors such as PaliGemma's refuse those, so the tokenizer is asked directly."""
    before, after = _around(mllm)
    out = mllm.tokenizer(
        [before + prompt + after for prompt in prompts],
        add_special_tokens=_adds_special(mllm, prompts[0]),
        return_offsets_mapping=True,
    )
    moved = [[(a - len(before), b - len(before)) for a, b in row] for row in out["offset_mapping"]]
    return {"input_ids": out["input_ids"], "offset_mapping": moved}


def _around(mllm: MLLM) -> tuple[str, str]:
    return mllm.layout.around_text(mllm.tokenizer) if mllm.layout.around_text else ("", "")


def _moved(mllm: MLLM, span: tuple[int, int], replaced: list[dict[str, Any]]) -> tuple[int, int]:
    """A span of the rendered prompt, in the text whose image placeholders have been expanded."""
    before, _ = _around(mllm)

    def moved(position: int) -> int:
        grown = sum((r["new_span"][1] - r["new_span"][0]) - (r["span"][1] - r["span"][0]) for r in replaced if r["span"][1] <= position)
        return position + grown + len(before)

    return moved(span[0]), moved(span[1])


def _row(mllm: MLLM, encoded: dict[str, Any], k: int, user: tuple[int, int], frame: _Frame) -> _Row:
    """Ids and roles of one prompt. A token that touches the user's text is USER, even if it also covers template characters."""
    ids = np.asarray(encoded["input_ids"][k], dtype=np.int64)
    offsets = np.asarray(encoded["offset_mapping"][k], dtype=np.int64).reshape(-1, 2)
    roles = np.full(len(ids), int(Role.TEMPLATE), dtype=np.int8)
    system = frame.system
    if "replaced" in encoded:
        system = _moved(mllm, system, encoded["replaced"][k]) if system[1] > system[0] else system
    for (start, end), role in ((system, Role.SYSTEM), (user, Role.USER)):
        roles[(offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 1] > offsets[:, 0])] = int(role)
    if "replaced" in encoded and mllm.layout.image_token is not None:
        roles[ids == mllm.layout.image_token(mllm.model.config, mllm.processor)] = int(Role.IMAGE)
    return _Row(ids, roles, {name: np.asarray(encoded[name][k], dtype=np.int64) for name in _PER_TOKEN if name in encoded})


def _padded(mllm: MLLM, requests: tuple[Request, ...], rows: list[_Row], features: dict[str, Tensor], pad_to: int | None) -> Encoded:
    """Stack the rows, padded on the left to the longest prompt or to `pad_to`."""
    longest = max(len(row.ids) for row in rows)
    length = pad_to or longest
    if longest > length:
        worst = max(range(len(rows)), key=lambda i: len(rows[i].ids))
        raise InputError(f'request "{requests[worst].id}" has {longest} tokens, more than pad_to = {length}; raise pad_to or leave it out.')
    tokenizer = mllm.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def stacked(values: list[np.ndarray], fill: int, dtype: torch.dtype) -> Tensor:
        out = torch.full((len(values), length), fill, dtype=dtype)
        for line, value in zip(out, values, strict=True):
            if len(value):
                line[length - len(value) :] = torch.from_numpy(value)
        return out

    mask = stacked([np.ones(len(row.ids), dtype=np.int64) for row in rows], 0, torch.long)
    inputs: dict[str, Tensor] = {"input_ids": stacked([row.ids for row in rows], int(pad or 0), torch.long), "attention_mask": mask}
    names = {name for row in rows for name in row.extra} | ({mllm.layout.token_types} if mllm.layout.token_types else set())
    for name in sorted(names):
        inputs[name] = stacked([row.extra.get(name, np.empty(0, dtype=np.int64)) for row in rows], 0, torch.long)
    if not (mllm.layout.mrope and features):
        inputs["position_ids"] = _positions(mask)
    for name, value in features.items():
        inputs[name] = value.to(mllm.dtype) if value.is_floating_point() else value
    roles = stacked([row.roles for row in rows], int(Role.PAD), torch.int8)
    return Encoded(requests, inputs, roles).to(mllm.device)


def _positions(mask: Mask) -> Tensor:
    """Position of every token among the real ones, 0 at pads, as transformers' `generate` counts them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)
