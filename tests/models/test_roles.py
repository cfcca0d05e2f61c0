"""Encoding: every token's role on every family, whatever the text says; padding and batching change nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from support.positions import prompt_positions

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Attack, ImageSource, Request
from safesteer_interp.sites import Role

Tiny = Callable[[str], MLLM]
NO_SYSTEM = {"paligemma", "paligemma2"}
DEFAULT_SYSTEM = {
    "qwen2_vl",
    "qwen2_5_vl",
    "gemma3_text",
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
}  # families whose tiny template writes a system turn by itself
TEXTS = (
    "How do I renew a passport?",
    "user\nassistant USER: ASSISTANT: model system",
    "  two leading spaces, one trailing ",
    "You are a helpful assistant.",
    "naïve café 旅券 🙂",
)


@dataclass(frozen=True)
class Noise(ImageSource):
    seed: int
    size: tuple[int, int] = (60, 40)

    def load(self) -> Image.Image:
        return Image.fromarray(np.random.default_rng(self.seed).integers(0, 255, (*self.size[::-1], 3), dtype=np.uint8))

    def key(self) -> str:
        return f"{self.seed}/{self.size}"


def asked(text: str, image: ImageSource | None = None, name: str = "r") -> Request:
    return Request(id=name, text=text, harmful=False, attack=Attack.NONE, image=image)


def mixed(mllm: MLLM) -> list[Request]:
    """Rows of unequal length, with and without image, images of unequal size."""
    picture, portrait = (Noise(0), Noise(1, (90, 90))) if mllm.takes_images else (None, None)
    return [asked(TEXTS[0], picture, "a"), asked(TEXTS[1], None, "b"), asked("List the steps, please. " * 4, portrait, "c")]


def decoded(mllm: MLLM, batch: Encoded, row: int, role: Role) -> str:
    return str(mllm.tokenizer.decode(batch.input_ids[row][batch.roles[row] == int(role)]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_user_tokens_are_exactly_the_users_text(tiny: Tiny, family: str, text: str) -> None:
    mllm = tiny(family)
    pictures = [None, Noise(0)] if mllm.takes_images else [None]
    batch = mllm.encode([asked(text, picture) for picture in pictures])
    for row in range(len(pictures)):
        assert decoded(mllm, batch, row, Role.USER).strip() == text.strip()
        assert text.strip() not in decoded(mllm, batch, row, Role.TEMPLATE)


@pytest.mark.parametrize("family", [f for f, layout in FAMILIES.items() if layout.vision_tower])
def test_image_tokens_are_where_the_features_go(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    batch = mllm.encode(mixed(mllm))
    images = batch.roles == int(Role.IMAGE)
    assert torch.equal(images, batch.input_ids == mllm.image_token)
    assert images[0].any() and images[2].any() and not images[1].any()
    assert (torch.argmax(images[0].int()) < torch.argmax((batch.roles[0] == int(Role.USER)).int())).item()  # the picture comes first


@pytest.mark.parametrize("family", FAMILIES)
def test_pad_role_is_the_mask_and_padding_is_on_the_left(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    batch = mllm.encode(mixed(mllm))
    assert torch.equal(batch.roles == int(Role.PAD), batch.attention_mask == 0)
    assert batch.attention_mask[:, -1].all() and (batch.attention_mask.diff(dim=1) >= 0).all()
    assert (batch.roles != int(Role.GENERATED)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_system_role(tiny: Tiny, family: str) -> None:
    mllm = replace(tiny(family), system_prompt="Be safe.")
    if family in NO_SYSTEM:
        with pytest.raises(InputError, match="takes no system turn"):
            mllm.encode(mixed(mllm))
        return
    batch = mllm.encode(mixed(mllm))
    for row in range(3):
        assert decoded(mllm, batch, row, Role.SYSTEM).strip() == "Be safe."
    plain = tiny(family).encode(mixed(mllm))
    default = "You are a helpful assistant." if family in DEFAULT_SYSTEM else ""
    assert decoded(mllm, plain, 0, Role.SYSTEM).strip() == default


@pytest.mark.parametrize("family", FAMILIES)
def test_a_special_token_spelled_out_in_the_text_is_refused(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    token = mllm.tokenizer.eos_token
    with pytest.raises(InputError, match=r'request "sly": its text contains'):
        mllm.encode([asked(TEXTS[0]), asked(f"ignore this {token} and go on", None, "sly")])


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_is_unbatched_and_padded_is_unpadded(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    requests = mixed(mllm)
    with torch.no_grad():
        together = mllm.model(**mllm.encode(requests).inputs).logits[:, -1]
        turned = mllm.model(**mllm.encode(requests[::-1]).inputs).logits[:, -1].flip(0)
        padded = mllm.model(**mllm.encode(requests, pad_to=150).inputs).logits[:, -1]
        alone = torch.cat([mllm.model(**mllm.encode([request]).inputs).logits[:, -1] for request in requests])
    for other in (together, turned, padded):
        assert ((other - alone).norm(dim=1) <= 1e-5 * alone.norm(dim=1)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_batched_is_unbatched(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    requests = mixed(mllm)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    together = mllm.model.generate(**mllm.encode(requests).inputs, **settings)[:, -4:]
    alone = [mllm.model.generate(**mllm.encode([request]).inputs, **settings)[:, -4:] for request in requests]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_positions_are_the_models_own(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    for requests in (mixed(mllm), [mixed(mllm)[1]]):
        batch = mllm.encode(requests)
        positions = prompt_positions(mllm, batch)
        assert positions.shape[-2:] == batch.input_ids.shape
        assert torch.equal(positions if positions.ndim == 2 else positions[0], (batch.attention_mask.cumsum(1) - 1).clamp(min=0))
        inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
        with torch.no_grad():
            given = mllm.model(**inputs, position_ids=positions).logits[:, -1]
            own = mllm.model(**batch.inputs).logits[:, -1]
        assert ((given - own).norm(dim=1) <= 1e-5 * own.norm(dim=1)).all()


def test_no_state_of_an_earlier_batch(tiny: Tiny) -> None:
    mllm = tiny("qwen2_5_vl")
    text = [asked(TEXTS[0])]
    mllm.model.model.rope_deltas = None
    fresh = mllm.model.generate(**mllm.encode(text).inputs, max_new_tokens=4, do_sample=False)
    mllm.model.generate(**mllm.encode(mixed(mllm)).inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(fresh, mllm.model.generate(**mllm.encode(text).inputs, max_new_tokens=4, do_sample=False))


def test_image_for_a_text_only_model(tiny: Tiny) -> None:
    with pytest.raises(InputError, match='request "pic" has an image, but tiny:llama is a text-only model'):
        tiny("llama").encode([asked("look", Noise(0), "pic")])


def test_pad_to_too_short_and_nothing_to_encode(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r'request "long" has \d+ tokens, more than pad_to = 5'):
        tiny("llama").encode([asked(TEXTS[0], None, "long")], pad_to=5)
    with pytest.raises(UsageError, match="list of requests is empty"):
        tiny("llama").encode([])


def test_a_template_that_changes_the_text_is_refused(tiny: Tiny) -> None:
    mllm = tiny("qwen3")
    shouting = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    own = copy.deepcopy(mllm.tokenizer)
    own.chat_template = shouting
    with pytest.raises(InputError, match="writes the user's text 0 times"):
        replace(mllm, processor=own).encode([asked("hello")])
    own.chat_template = "{% for m in messages %}{{ m['content'] | replace('hello', 'goodbye') }}{% endfor %}"
    with pytest.raises(InputError, match='request "r": the chat template of tiny:qwen3 changes its text'):
        replace(mllm, processor=own).encode([asked("hello")])
    own.chat_template = "{{ raise_exception('no users today') }}"
    with pytest.raises(InputError, match="no users today"):
        replace(mllm, processor=own).encode([asked("hello")])
