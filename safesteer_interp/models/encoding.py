"""Requests to batches: rendered prompts, image expansion, left padding, and the role of every token.

The spans of the system and the user text in a rendered prompt are known by construction (see `template.py`). They are carried
through the image expansion and mapped to tokens by the tokenizer's character offsets; image tokens are known by their id.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from safesteer_interp.errors import BadRequestError, InputError, UsageError
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.template import ChatTemplate, Frame, Span
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role
from safesteer_interp.types import Ids, Mask, Roles

_PER_TOKEN = ("mm_token_type_ids", "token_type_ids")
PROCESSOR_ERRORS = (ValueError, TypeError, RuntimeError, AttributeError, LookupError, ArithmeticError, OSError, MemoryError)
"""What transformers' processors and vision towers raise on a picture or a setting that they were not written for."""


@dataclass
class Encoded:
    """A left-padded batch, ready for `model(**batch.inputs)`; roles say what each token is."""

    requests: tuple[Request, ...]
    inputs: dict[str, Tensor]
    """input_ids and attention_mask [batch, sequence], and whatever else the family wants (pixel_values, image_grid_thw, ...)."""
    roles: Roles
    """[batch, sequence] int8 values of sites.Role; PAD where attention_mask is 0."""

    @property
    def input_ids(self) -> Ids:
        return self.inputs["input_ids"]

    @property
    def attention_mask(self) -> Mask:
        return self.inputs["attention_mask"]

    def to(self, device: torch.device | str) -> Encoded:
        """The same batch on another device."""
        return Encoded(self.requests, {k: v.to(device) for k, v in self.inputs.items()}, self.roles.to(device))


@dataclass
class _Row:
    """One tokenized prompt before padding."""

    ids: np.ndarray
    roles: np.ndarray
    extra: dict[str, np.ndarray]


@dataclass
class _Prompt:
    """One rendered request, the span of the user's text in it, and what the template wrote around that."""

    request: Request
    text: str
    user: Span
    frame: Frame


@dataclass
class PromptEncoder:
    """All of a loaded model that turning requests into batches needs; it keeps what the template writes around every request.

    Requests with and without image may be mixed. A request that cannot be encoded raises BadRequestError, which names it and its
    image: an image and a model that takes none, a text that contains one of the tokenizer's special tokens or that the template
    changes, a picture that the processor cannot take.
    """

    name: str
    """The model's, for messages."""
    tokenizer: Any
    processor: Any
    layout: Layout
    image_token: int | None
    """Id of the placeholder that image features replace; None for text-only decoders."""
    vocabulary: int
    """Rows of the input embedding: what every token id must lie below."""
    system_prompt: str | None
    """None leaves the template's own default."""
    device: torch.device
    dtype: torch.dtype
    thinking: bool | None = None
    """Whether the template is asked for a thinking model's reasoning; None leaves that to the template."""
    _frames: dict[tuple[str, bool, bool | None], Frame] = field(default_factory=dict, init=False, repr=False, compare=False)
    _special: tuple[int, re.Pattern[str]] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def takes_images(self) -> bool:
        return self.layout.vision_tower is not None

    @property
    def template(self) -> ChatTemplate:
        """The chat template in use."""
        return ChatTemplate(self.name, self.tokenizer, self.processor, self.layout, self.thinking)

    def encode(self, requests: Sequence[Request], *, pad_to: int | None = None) -> Encoded:
        """Chat-templated, left-padded batch on the model's device, with the role of every token.

        `pad_to` fixes the padded length (in tokens). `position_ids` count real tokens only; for multimodal rotary positions (Qwen-VL)
        they are left to the model whenever an image is in the batch. Raises BadRequestError (see the class), and InputError for a
        prompt longer than `pad_to` and for a template that cannot be used.
        """
        requests = tuple(requests)
        if not requests:
            raise UsageError("nothing to encode: the list of requests is empty.")
        prompts = [self._prompt(request) for request in requests]
        rows: dict[int, _Row] = {}
        features: dict[str, Tensor] = {}
        for has_image in dict.fromkeys(r.image is not None for r in requests):
            members = [i for i, r in enumerate(requests) if (r.image is not None) == has_image]
            asked = [prompts[i] for i in members]
            if has_image:
                encoded, features = self._with_images(asked)
            else:
                encoded = self._without_images([prompt.text for prompt in asked])
            rows |= {i: self._row(encoded, k, asked[k]) for k, i in enumerate(members)}
        return self._padded(requests, [rows[i] for i in range(len(requests))], features, pad_to)

    def token_ids(self, request: Request) -> list[int]:
        """Ids of the rendered prompt with one placeholder for its image, without touching a pixel.

        How often the placeholder is repeated follows from the pixels and the processor. So these ids, the image's key and the
        model's fingerprint together say all that the model reads. Raises BadRequestError as `encode` does.
        """
        return [int(token) for token in self._without_images([self._prompt(request).text])["input_ids"][0]]

    def frame(self, has_image: bool, *, fresh: bool = False) -> Frame:
        """What the template writes around a request with or without image; learnt anew when it is not known yet, or `fresh`."""
        key = self.template.source, has_image, self.thinking
        if fresh or key not in self._frames:
            self._check_system()
            self._frames[key] = self.template.frame(self.system_prompt, has_image)
        return self._frames[key]

    def _prompt(self, request: Request) -> _Prompt:
        """The rendered prompt of a request that may be asked."""
        self._check(request)
        has_image = request.image is not None
        for fresh in (False, True):  # a template that writes the date or the time does not write the same frame for ever
            frame = self.frame(has_image, fresh=fresh)
            text = self.template.render(request.text, self.system_prompt, has_image, parts=frame.parts)
            if span := frame.span_in(text, request.text):
                return _Prompt(request, text, span, frame)
        raise BadRequestError(f'request "{request.id}": the chat template of {self.name} changes its text; reword it.', request.id)

    def _reserved(self) -> re.Pattern[str]:
        """Matches any special token of the tokenizer, spelled out in a text."""
        size = len(self.tokenizer)
        if self._special is None or self._special[0] != size:
            special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
            words = sorted(special | set(self.tokenizer.all_special_tokens))
            self._special = size, re.compile("|".join(map(re.escape, words)) or r"(?!)")
        return self._special[1]

    def _check_system(self) -> None:
        if self.system_prompt is not None and (found := self._reserved().search(self.system_prompt)):
            raise InputError(f'the system prompt contains "{found[0]}", a special token of {self.name}; remove it or spell it differently.')

    def _check(self, request: Request) -> None:
        """Refuse what would silently become something else: an image nobody sees, or text that tokenizes to a special token."""
        if not self.tokenizer.is_fast:
            raise InputError(
                f"{self.name}: its tokenizer {type(self.tokenizer).__name__} has no character offsets; a tokenizer.json is needed."
            )
        if request.image is not None and not self.takes_images:
            raise BadRequestError(
                f'request "{request.id}" has an image, but {self.name} is a text-only model; choose an MLLM or drop the image.', request.id
            )
        if found := self._reserved().search(request.text):
            raise BadRequestError(
                f'request "{request.id}": its text contains "{found[0]}", a special token of {self.name}; '
                "remove it or spell it differently.",
                request.id,
            )

    def _adds_special(self, prompt: str) -> bool:
        """Whether the tokenizer itself should add its BOS: as `apply_chat_template` does, never on top of a template that wrote one."""
        bos = self.tokenizer.bos_token
        return self.takes_images and self.layout.around_text is None and not (bos is not None and prompt.startswith(bos))

    def _with_images(self, prompts: list[_Prompt]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(tokenizer outputs with offsets and replacements, image tensors) of prompts that have one image each."""
        pictures = [_picture(prompt.request) for prompt in prompts]
        try:
            return self._process(prompts, pictures)
        except PROCESSOR_ERRORS as cause:
            raise self._cannot_encode(prompts, pictures, cause) from None

    def _process(self, prompts: list[_Prompt], pictures: list[Image.Image]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the family's processor makes of prompts and pictures."""
        out = self.processor(
            text=[prompt.text for prompt in prompts],
            images=[[picture] for picture in pictures],
            padding=True,  # PaliGemma's processor cannot build its labels from rows of unequal length; the pads are cut off below
            add_special_tokens=self._adds_special(prompts[0].text),
            return_offsets_mapping=True,
            return_text_replacement_offsets=True,
        )
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

    def _cannot_encode(self, prompts: list[_Prompt], pictures: list[Image.Image], cause: BaseException) -> InputError:
        """The error that names the first request of a batch whose picture the processor does not take."""
        for prompt, picture in zip(prompts, pictures, strict=True):
            request, image = prompt.request, prompt.request.image
            try:
                self._process([prompt], [picture])
            except PROCESSOR_ERRORS as own:
                return BadRequestError(
                    f'request "{request.id}": the processor of {self.name} cannot encode its image {image.label if image else ""} of '
                    f"{picture.width}x{picture.height} pixels ({_short(own)}); replace or resize the image.",
                    request.id,
                )
        return InputError(f"{self.name}: its processor cannot encode these {len(prompts)} images together ({_short(cause)}).")

    def _without_images(self, prompts: list[str]) -> dict[str, Any]:
        """Tokenizer outputs of prompts without image; processors such as PaliGemma's refuse those, so the tokenizer is asked directly."""
        before, after = self._around()
        out = self.tokenizer(
            [before + prompt + after for prompt in prompts],
            add_special_tokens=self._adds_special(prompts[0]),
            return_offsets_mapping=True,
        )
        moved = [[(a - len(before), b - len(before)) for a, b in row] for row in out["offset_mapping"]]
        return {"input_ids": out["input_ids"], "offset_mapping": moved}

    def _around(self) -> tuple[str, str]:
        return self.layout.around_text(self.tokenizer) if self.layout.around_text else ("", "")

    def _moved(self, span: Span, replaced: list[dict[str, Any]]) -> Span:
        """A span of the rendered prompt, in the text whose image placeholders have been expanded."""
        before, _ = self._around()

        def moved(position: int) -> int:
            grown = sum((r["new_span"][1] - r["new_span"][0]) - (r["span"][1] - r["span"][0]) for r in replaced if r["span"][1] <= position)
            return position + grown + len(before)

        return moved(span[0]), moved(span[1])

    def _row(self, encoded: dict[str, Any], k: int, prompt: _Prompt) -> _Row:
        """Ids and roles of one prompt. A token that touches the user's text is USER, even if it also covers template characters."""
        ids = np.asarray(encoded["input_ids"][k], dtype=np.int64)
        offsets = np.asarray(encoded["offset_mapping"][k], dtype=np.int64).reshape(-1, 2)
        roles = np.full(len(ids), int(Role.TEMPLATE), dtype=np.int8)
        system, user = prompt.frame.system, prompt.user
        if "replaced" in encoded:
            user = self._moved(user, encoded["replaced"][k])
            system = self._moved(system, encoded["replaced"][k]) if system[1] > system[0] else system
        for (start, end), role in ((system, Role.SYSTEM), (user, Role.USER)):
            roles[(offsets[:, 0] < end) & (offsets[:, 1] > start) & (offsets[:, 1] > offsets[:, 0])] = int(role)
        if "replaced" in encoded and self.image_token is not None:
            roles[ids == self.image_token] = int(Role.IMAGE)
            self._check_image(roles, prompt.request)
        self._check_ids(ids[roles != int(Role.IMAGE)], prompt.request)
        return _Row(ids, roles, {name: np.asarray(encoded[name][k], dtype=np.int64) for name in _PER_TOKEN if name in encoded})

    def _check_image(self, roles: np.ndarray, request: Request) -> None:
        """A picture without a token of the model's own would not be seen at all."""
        if not (roles == int(Role.IMAGE)).any():
            token = self.tokenizer.convert_ids_to_tokens(self.image_token)
            raise BadRequestError(
                f'request "{request.id}": the processor of {self.name} writes no image token that the model knows ("{token}", id '
                f"{self.image_token} in config.json); tokenizer and config.json do not belong together: fetch both from one checkpoint.",
                request.id,
            )

    def _check_ids(self, ids: np.ndarray, request: Request) -> None:
        """A token that was added to the tokenizer alone has no row in the embedding (on CUDA that is a device-side assert)."""
        if len(beyond := ids[ids >= self.vocabulary]):
            token = self.tokenizer.convert_ids_to_tokens(int(beyond[0]))
            raise BadRequestError(
                f'request "{request.id}": the tokenizer of {self.name} gives "{token}" the id {beyond[0]}, but the model\'s embedding has '
                f"{self.vocabulary} rows; use the tokenizer that belongs to the weights, or resize the embedding and save the model again.",
                request.id,
            )

    def _padded(self, requests: tuple[Request, ...], rows: list[_Row], features: dict[str, Tensor], pad_to: int | None) -> Encoded:
        """Stack the rows, padded on the left to the longest prompt or to `pad_to`."""
        longest = max(len(row.ids) for row in rows)
        length = pad_to or longest
        if longest > length:
            worst = requests[max(range(len(rows)), key=lambda i: len(rows[i].ids))]
            raise InputError(f'request "{worst.id}" has {longest} tokens, more than pad_to = {length}; raise pad_to or leave it out.')
        tokenizer = self.tokenizer
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

        def stacked(values: list[np.ndarray], fill: int, dtype: torch.dtype) -> Tensor:
            out = torch.full((len(values), length), fill, dtype=dtype)
            for line, value in zip(out, values, strict=True):
                if len(value):
                    line[length - len(value) :] = torch.from_numpy(value)
            return out

        mask = stacked([np.ones(len(row.ids), dtype=np.int64) for row in rows], 0, torch.long)
        inputs: dict[str, Tensor] = {"input_ids": stacked([row.ids for row in rows], int(pad or 0), torch.long), "attention_mask": mask}
        names = {name for row in rows for name in row.extra} | ({self.layout.token_types} if self.layout.token_types else set())
        for name in sorted(names):
            inputs[name] = stacked([row.extra.get(name, np.empty(0, dtype=np.int64)) for row in rows], 0, torch.long)
        if not (self.layout.mrope and features):
            inputs["position_ids"] = positions_of(mask)
        for name, value in features.items():
            inputs[name] = value.to(self.dtype) if value.is_floating_point() else value
        roles = stacked([row.roles for row in rows], int(Role.PAD), torch.int8)
        return Encoded(requests, inputs, roles).to(self.device)


def positions_of(mask: Mask) -> Mask:
    """Position of every token among the real ones, 0 at pads, as transformers' `generate` counts them."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def _picture(request: Request) -> Image.Image:
    """The request's image. Raises BadRequestError when it cannot be loaded."""
    assert request.image is not None
    try:
        return request.image.load()
    except InputError as cause:
        raise BadRequestError(f'request "{request.id}": {cause}', request.id) from None


def _short(cause: BaseException) -> str:
    """A third party's message on one line."""
    return " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
