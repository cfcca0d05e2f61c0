"""The encoder's own memory, the ids of a prompt without its pixels, and requests that cannot be encoded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safesteer_interp.errors import BadRequestError, InputError
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import ImageFile, ImageSource, Request
from safesteer_interp.sites import Role

Tiny = Callable[[str], MLLM]
SEEING = [name for name, family in FAMILIES.items() if family.layout.vision_tower]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@dataclass(frozen=True)
class NotTouched(ImageSource):
    """An image that may not be loaded."""

    def load(self) -> Image.Image:
        raise AssertionError("loaded")

    def key(self) -> str:
        return "not touched"


def with_template(mllm: MLLM, template: str | dict[str, str]) -> MLLM:
    processor = copy.deepcopy(mllm.processor)
    processor.chat_template = template
    return replace(mllm, processor=processor)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_ids_are_the_prompts_and_touch_no_pixel(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    text = Request("How do I renew a passport?")
    assert mllm.encoder.token_ids(text) == mllm.encode([text]).input_ids[0].tolist()
    if mllm.takes_images:
        pictured = mllm.encoder.token_ids(Request(text.text, NotTouched(), id="r"))
        assert pictured != mllm.encoder.token_ids(text)
        whole = mllm.encode([Request(text.text, noise(60, 40))])
        said = [t for t, role in zip(whole.input_ids[0].tolist(), whole.roles[0].tolist(), strict=True) if role == int(Role.USER)]
        assert said == [t for t in pictured if t in said][-len(said) :]


def test_a_template_that_writes_the_date_is_learnt_anew(tiny: Tiny) -> None:
    """The frame of yesterday does not fit today's prompt, and the ids say so."""
    mllm = tiny("llama")
    day = {"today": "Monday"}
    own = copy.deepcopy(mllm.tokenizer)
    plain = own.apply_chat_template
    own.apply_chat_template = lambda turns, **options: plain(turns, today=day["today"], **options)
    own.chat_template = "<|im_start|>system\n{{ today }}<|im_end|>\n{% for m in messages %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    dated = replace(mllm, processor=own)
    first = dated.encoder.token_ids(Request("Hello?"))
    day["today"] = "Tuesday, at noon"
    batch = dated.encode([Request("Hello?")])
    assert batch.input_ids[0].tolist() != first
    assert dated.tokenizer.decode(batch.input_ids[0][batch.roles[0] == int(Role.USER)]) == "Hello?"


@pytest.mark.parametrize("family", SEEING)
def test_templates_that_want_one_string(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    stringly = with_template(mllm, "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}answer:")
    batch = stringly.encode([Request("What is this?", noise(60, 40)), Request("Hello?")])
    assert mllm.tokenizer.decode(batch.input_ids[0][batch.roles[0] == int(Role.USER)]).strip() == "What is this?"
    assert (batch.roles[0] == int(Role.IMAGE)).any()
    with torch.no_grad():
        assert torch.isfinite(mllm.model(**batch.inputs).logits).all()


def test_a_text_models_template_that_wants_parts(tiny: Tiny) -> None:
    template = "{% for m in messages %}{% for part in m['content'] %}{{ part['text'] + '<|im_end|>' }}{% endfor %}{% endfor %}"
    batch = with_template(tiny("llama"), template).encode([Request("Hello?")])
    assert tiny("llama").tokenizer.decode(batch.input_ids[0]) == "Hello?<|im_end|>"


def test_named_templates(tiny: Tiny) -> None:
    mllm = tiny("llama")
    one, two = "{{ messages[0]['content'] }} one", "{{ messages[0]['content'] }} two"

    def said(templates: dict[str, str]) -> str:
        return str(mllm.tokenizer.decode(with_template(mllm, templates).encode([Request("Hello?")]).input_ids[0]))

    assert said({"default": one, "tools": two}) == "Hello? one"
    assert said({"tools": two}) == "Hello? two"
    with pytest.raises(InputError, match="chat templates rag, tools, and none of them is the default"):
        said({"rag": one, "tools": two})


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llama"])
def test_special_tokens_in_the_system_prompt_are_refused(tiny: Tiny, family: str) -> None:
    token = {"llava": "<image>", "qwen2_5_vl": "<|im_end|>", "llama": "<|im_end|>"}[family]
    mllm = replace(tiny(family), system_prompt=f"Look at {token} well.")
    with pytest.raises(InputError, match=r"the system prompt contains \"" + token.replace("|", r"\|")):
        mllm.encode([Request("Hello?")])


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_picture_a_processor_refuses_is_named_among_others(tiny: Tiny, family: str, tmp_path: Path) -> None:
    path = tmp_path / "thin.png"
    noise(1, 3000).save(path)
    requests = [Request("What is this?", noise(60, 40), id="sound"), Request("What is this?", path, id="thin")]
    with pytest.raises(BadRequestError, match=r'request "thin": .*cannot encode its image .*thin\.png of 1x3000 pixels') as caught:
        tiny(family).encode(requests)
    assert caught.value.request_id == "thin"


@pytest.mark.parametrize(
    "error", [TypeError("int // None"), ZeroDivisionError(), IndexError("beyond"), KeyError("x"), RuntimeError("shape")]
)
def test_whatever_a_processor_raises_names_request_and_image(
    tiny: Tiny, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    noise(30, 30).save(path)

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(type(tiny("llava").processor), "__call__", fails)
    with pytest.raises(
        BadRequestError, match=rf'request "pic": the processor of tiny:llava cannot encode .*a\.png .*{type(error).__name__}'
    ):
        tiny("llava").encode([Request("What is this?", path, id="pic")])


def test_a_file_that_cannot_be_read_names_request_and_file(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "none.png"
    with pytest.raises(BadRequestError, match=r'request "pic": image .*none\.png does not exist') as caught:
        tiny("llava").encode([Request("What is this?", ImageFile(path), id="pic")])
    assert caught.value.request_id == "pic"


@pytest.mark.parametrize("family", SEEING)
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 40), (40, 3), (27, 332), (31, 639)])
def test_odd_sizes_give_finite_logits(tiny: Tiny, family: str, size: tuple[int, int]) -> None:
    mllm = tiny(family)
    batch = mllm.encode([Request("What is this?", noise(*size))])
    with torch.no_grad():
        assert torch.isfinite(mllm.model(**batch.inputs).logits).all()


def test_a_token_without_a_row_in_the_embedding_is_named(tiny: Tiny) -> None:
    own = copy.deepcopy(tiny("llama").tokenizer)
    own.add_tokens(["zyzzyva"])
    with pytest.raises(BadRequestError, match=r'request "r": .* gives "zyzzyva" the id \d+, but the model\'s embedding has \d+ rows'):
        replace(tiny("llama"), processor=own).encode([Request("say zyzzyva", id="r")])


def test_an_image_token_that_the_model_does_not_know(tiny: Tiny) -> None:
    mllm = tiny("llava")
    wrong = replace(mllm, layout=replace(mllm.layout, image_token=lambda config, processor: 5))
    with pytest.raises(BadRequestError, match=r'request "r": the processor of tiny:llava writes no image token that the model knows'):
        wrong.encode([Request("What is this?", noise(30, 30), id="r")])
