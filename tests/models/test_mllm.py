"""MLLM.of: models that are in memory already, and what is refused about them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models import load_model
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.fingerprint import fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.served import ServedMLLM
from safesteer_interp.models.special_tokens import further_stops, stop_ids
from safesteer_interp.requests import Request
from safesteer_interp.served import Server

Tiny = Callable[[str], MLLM]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llama"])
def test_a_loaded_model_becomes_what_load_model_gives(tiny: Tiny, family: str) -> None:
    built = tiny(family)
    mllm = MLLM.of(built.model, built.processor, name="mine", system_prompt="Be brief.")
    assert (mllm.layout.family, mllm.name, mllm.source, mllm.fingerprint) == (family, "mine", "in memory", built.fingerprint)
    assert not mllm.model.training and mllm.tokenizer.padding_side == "left"
    assert torch.equal(
        mllm.encode([Request("Hello?")]).input_ids,
        load_model(f"tiny:{family}", system_prompt="Be brief.").encode([Request("Hello?")]).input_ids,
    )


def test_weights_and_given_fingerprints_tell_models_apart(tiny: Tiny) -> None:
    built = tiny("llama")
    other = copy.deepcopy(built.model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    assert MLLM.of(other, built.processor).fingerprint != built.fingerprint
    given = [MLLM.of(other, built.processor, fingerprint=text).fingerprint for text in ("patched, 1", "patched, 2", "patched, 1")]
    assert given[0] == given[2] != given[1] and len(given[0]) == len(built.fingerprint)


def test_where_a_model_was_loaded_from_is_no_part_of_its_fingerprint(tiny: Tiny) -> None:
    for family in ("llama", "llava"):
        mllm = replace(tiny(family), model=copy.deepcopy(tiny(family).model), processor=copy.deepcopy(tiny(family).processor))
        before = fingerprint(mllm.model, mllm.processor)
        for config in (mllm.model.config, mllm.model.config.get_text_config()):
            config._name_or_path = "/somewhere/else"
        mllm.tokenizer.name_or_path = "/somewhere/else"
        assert fingerprint(mllm.model, mllm.processor) == before
        mllm.model.config.get_text_config().rms_norm_eps = 0.5
        assert fingerprint(mllm.model, mllm.processor) != before


def test_peft_models_are_unwrapped_and_their_scale_counts(tiny: Tiny) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    built = tiny("llama")
    found = {}
    for alpha in (2, 8):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=False)
        wrapped = peft.get_peft_model(copy.deepcopy(built.model), config)
        mllm = MLLM.of(wrapped, built.processor, name="lora")
        with torch.no_grad():
            found[mllm.fingerprint] = mllm.model(**mllm.encode([Request("Hello?")]).inputs).logits[0, -1]
    one, other = found.values()  # two fingerprints: the weights are equal, the scale is not
    assert not torch.allclose(one, other)


def test_what_is_no_model_or_no_processor_of_it(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="takes a transformers model, not Linear"):
        MLLM.of(torch.nn.Linear(2, 2), tiny("llama").processor)
    with pytest.raises(InputError, match=r"takes images, but .* prepares none; pass what AutoProcessor"):
        MLLM.of(tiny("llava").model, tiny("llava").tokenizer)


def test_settings_are_fingerprinted_by_content_or_refused() -> None:
    """A config may hold number formats and arrays; what only prints (an address, a cut array) would let two models share a fingerprint."""
    built, found = FAMILIES["llama"].tiny(), []  # one of its own, to be changed
    for value in (torch.float16, torch.bfloat16, np.arange(2000), np.arange(2000) * (np.arange(2000) != 1000), {"b": 1}):
        built.model.config.extra = value
        found.append(MLLM.of(built.model, built.processor).fingerprint)
    assert len({*found, built.fingerprint}) == 6
    built.model.config.extra = object()
    with pytest.raises(UsageError, match=r"a setting in the config of the model is a builtins\.object, whose content cannot be hashed"):
        MLLM.of(built.model, built.processor)


def test_weights_that_cannot_be_read_ask_for_a_fingerprint(tiny: Tiny) -> None:
    model = copy.deepcopy(tiny("llama").model).to("meta")
    with pytest.raises(InputError, match=r"cannot be read to fingerprint the model .* give MLLM\.of a fingerprint"):
        MLLM.of(model, tiny("llama").processor)


def test_repr_is_one_line(tiny: Tiny) -> None:
    assert repr(tiny("llava")) == "MLLM('tiny:llava', llava, 4 layers of width 64, 0.3 M parameters, float32 on cpu)"


def test_stop_ids_follow_the_generation_config(tiny: Tiny) -> None:
    built = tiny("llama")
    model = copy.deepcopy(built.model)
    model.generation_config.eos_token_id = [7, built.tokenizer.eos_token_id, 5]
    assert stop_ids(replace(built, model=model)) == {5, 7, built.tokenizer.eos_token_id}
    assert further_stops(replace(built, model=model)) == [5, 7]
    assert further_stops(built) == [] and further_stops(ServedMLLM(Server("http://127.0.0.1:9", "org/model"))) == []
    model.generation_config = None
    assert further_stops(replace(built, model=model)) == []


def test_copies_share_the_lock_and_nothing_that_was_made_for_the_original(tiny: Tiny) -> None:
    built = tiny("llama")
    other = replace(built, system_prompt="Be brief.")
    assert other.lock is built.lock and other.tracers is not built.tracers and other.prompts is None
    assert other.encoder.system_prompt == "Be brief." and built.encoder.system_prompt is None
