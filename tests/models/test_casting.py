"""The format that answers are written in: chosen by the device, never in silence, with positions and fingerprint kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from safesteer_interp.decoding.answering import generate
from safesteer_interp.errors import UsageError
from safesteer_interp.models import casting, load_model
from safesteer_interp.models.casting import answering_dtype, in_dtype
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling


@pytest.mark.parametrize(("able", "format_of_answers"), [(True, "bfloat16"), (False, "float32")])
def test_answers_are_in_bfloat16_where_the_processor_multiplies_it(
    able: bool, format_of_answers: str, tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("safesteer_interp.models.dtypes.multiplies_bfloat16", lambda device: able)
    mllm = tiny("llama")
    assert answering_dtype(mllm) == format_of_answers
    assert answering_dtype(mllm, "float32") == "float32" and answering_dtype(mllm, "bfloat16") == "bfloat16"
    assert answering_dtype(replace(mllm, known_answer=True)) == "float32", "known answers are compared exactly"
    monkeypatch.setattr(casting, "SPARE", 0.0)
    assert answering_dtype(mllm) == "float32", "no memory for a second copy"
    with pytest.raises(UsageError, match='no dtype is called "bfloat"'):
        answering_dtype(mllm, "bfloat")


def test_a_model_in_another_format_answers_as_it_was_loaded(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("safesteer_interp.models.dtypes.multiplies_bfloat16", lambda device: True)
    half = in_dtype(tiny("llama"), "bfloat16")
    assert answering_dtype(half) == "bfloat16" and in_dtype(half, "bfloat16") is half


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "llama"])
def test_a_copy_leaves_the_model_alone_and_keeps_fingerprint_and_positions(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    before = {name: tensor.clone() for name, tensor in mllm.model.state_dict().items()}
    copy = in_dtype(mllm, "bfloat16")
    assert copy.dtype == torch.bfloat16 and copy.fingerprint == mllm.fingerprint and copy.lock is not mllm.lock
    assert all(torch.equal(tensor, before[name]) for name, tensor in mllm.model.state_dict().items())
    frequencies = {name: buffer for name, buffer in copy.model.named_buffers() if "inv_freq" in name}
    own = dict(mllm.model.named_buffers())
    assert frequencies and all(torch.equal(buffer, own[name]) for name, buffer in frequencies.items()), "rotary positions stay exact"
    assert len(generate(copy, [Request("Hello.")], sampling=Sampling(3), stop=False)[0].ids) == 3


def test_loading_in_bfloat16_keeps_positions_too() -> None:
    loaded = load_model("tiny:llama", dtype="bfloat16")
    buffers = {name: buffer.dtype for name, buffer in loaded.model.named_buffers() if "inv_freq" in name}
    assert loaded.dtype == torch.bfloat16 and buffers and set(buffers.values()) == {torch.float32}
