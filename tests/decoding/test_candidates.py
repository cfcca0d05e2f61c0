"""K candidates in one forward equal K separate forwards, on every family: batched, left-padded, with images, another choice per row."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.decoding import asked
from transformers import DynamicCache, StaticCache

from safesteer_interp.decoding import candidates as module
from safesteer_interp.decoding.candidates import check_maskable, chosen_states, keep_candidate, score_candidates
from safesteer_interp.decoding.prefix import advance, check_head, prefill
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.head import output_logits
from safesteer_interp.models.mllm import MLLM

K, STEPS = 4, 3
FLOAT32 = 1e-4


def alternatives(mllm: MLLM, step: int) -> torch.Tensor:
    """Three rows of K different ordinary tokens."""
    generator = torch.Generator().manual_seed(step)
    special = set(mllm.tokenizer.all_special_ids)
    usual = torch.tensor([i for i in range(300, 400) if i not in special])
    return torch.stack([usual[torch.randperm(len(usual), generator=generator)[:K]] for _ in range(3)])


def separately(mllm: MLLM, inputs: dict[str, torch.Tensor], before: list[torch.Tensor], choices: torch.Tensor) -> torch.Tensor:
    """States [batch, K, d] by K separate decodings, each from a fresh prompt pass."""
    states = []
    for column in choices.T:
        prefix, _ = prefill(mllm.model, inputs)
        for tokens in before:
            advance(mllm.model, prefix, tokens)
        states.append(advance(mllm.model, prefix, column))
    return torch.stack(states, dim=1)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest relative L2 distance over rows."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def walk(mllm: MLLM) -> float:
    """Largest difference over STEPS guided steps, every row choosing another candidate."""
    inputs = mllm.encode(asked(mllm)).inputs
    prefix, _ = prefill(mllm.model, inputs)
    before: list[torch.Tensor] = []
    worst = 0.0
    for step in range(STEPS):
        choices = alternatives(mllm, step)
        hidden = score_candidates(mllm.model, prefix, choices)
        worst = max(worst, relative(hidden.float(), separately(mllm, inputs, before, choices).float()))
        choice = torch.tensor([(step + row) % K for row in range(3)])
        keep_candidate(prefix, choice, K)
        before.append(choices[torch.arange(3), choice])
    following = advance(mllm.model, prefix, choices[:, 0])
    return max(worst, relative(following.float(), separately(mllm, inputs, before, choices[:, :1])[:, 0].float()))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_one_forward_equals_separate_forwards(family: str, tiny: Callable[[str], Any]) -> None:
    assert walk(tiny(family)) < FLOAT32


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_states_match_transformers_generation(family: str, tiny: Callable[[str], Any]) -> None:
    """The yardstick of the test above is itself held to `model.generate`, which shares none of our position or mask code."""
    mllm = tiny(family)
    inputs = mllm.encode(asked(mllm)).inputs
    own = mllm.model.generate(
        **inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    prefix, states = prefill(mllm.model, inputs)
    for step in range(4):
        logits = output_logits(mllm.model, states).detach()
        assert relative(logits, own.logits[step]) < FLOAT32
        states = advance(mllm.model, prefix, own.sequences[:, inputs["input_ids"].shape[1] + step])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_causal_mask_among_candidates_is_caught(family: str, tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: candidates that see the ones before them give other states, by far more than the tolerance."""
    usual = module.candidate_mask

    def causal(mask: torch.Tensor, k: int, dtype: torch.dtype) -> torch.Tensor:
        made = usual(mask, k, dtype)
        made[..., -k:] = torch.full((k, k), torch.finfo(dtype).min, dtype=dtype).triu(1)
        return made

    monkeypatch.setattr(module, "candidate_mask", causal)
    assert walk(tiny(family)) > 100 * FLOAT32


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_bfloat16_stays_within_rounding(kernel: str, tiny: Callable[[str], Any]) -> None:
    """bfloat16 keeps 8 bits: padding and batching alone move states by 1-2 % there, and so may this."""
    mllm = tiny("llava")
    model = copy.deepcopy(mllm.model).to(torch.bfloat16)
    model.set_attn_implementation(kernel)
    assert walk(replace(mllm, model=model)) < 0.05


def test_a_full_sliding_window_rolls_back(tiny: Callable[[str], Any]) -> None:
    """Gemma 3 with a window shorter than the prompt: what had left the window is not lost, and later steps are unharmed."""
    mllm = tiny("gemma3")
    window = mllm.model.config.get_text_config().sliding_window
    inputs = mllm.encode(asked(mllm)).inputs
    assert inputs["input_ids"].shape[1] > window, "the prompt must fill the window for this test to mean anything"
    prefix, _ = prefill(mllm.model, inputs)
    choices = alternatives(mllm, 0)
    before: list[torch.Tensor] = []
    for step in range(window + 2):
        hidden = score_candidates(mllm.model, prefix, choices)
        choice = torch.full((3,), step % K)
        keep_candidate(prefix, choice, K)
        before.append(choices[torch.arange(3), choice])
    expected = separately(mllm, inputs, before[:-1], before[-1][:, None])[:, 0]
    assert relative(chosen_states(hidden, choice), expected) < FLOAT32


def test_dropped_rows_leave_the_others_alone(tiny: Callable[[str], Any]) -> None:
    for family in ("llava", "qwen2_5_vl"):
        mllm = tiny(family)
        inputs = mllm.encode(asked(mllm)).inputs
        whole, _ = prefill(mllm.model, inputs)
        part, _ = prefill(mllm.model, inputs)
        part.keep_rows(torch.tensor([0, 2]))
        tokens = alternatives(mllm, 0)[:, 0]
        assert relative(advance(mllm.model, part, tokens[[0, 2]]), advance(mllm.model, whole, tokens)[[0, 2]]) < FLOAT32


def test_an_image_request_does_not_shift_a_later_text_request(tiny: Callable[[str], Any]) -> None:
    """Qwen-VL keeps the rope shift of the last image on the module; it must not reach the next batch."""
    mllm = tiny("qwen3_vl")
    text = [replace(r, image=None) for r in asked(mllm)]
    fresh, _ = prefill(mllm.model, mllm.encode(text).inputs)
    prefill(mllm.model, mllm.encode(asked(mllm)).inputs)
    later, _ = prefill(mllm.model, mllm.encode(text).inputs)
    tokens = alternatives(mllm, 1)[:, 0]
    assert torch.equal(advance(mllm.model, fresh, tokens), advance(mllm.model, later, tokens))


def test_what_cannot_be_masked_is_refused_in_a_sentence(tiny: Callable[[str], Any]) -> None:
    model = copy.deepcopy(tiny("llama").model)
    check_maskable(model, DynamicCache(config=model.config))
    with pytest.raises(UsageError, match="dynamic key-value cache, not StaticLayer"):
        check_maskable(model, StaticCache(config=model.config, max_cache_len=8))
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UsageError, match=r'"flash_attention_2" does not.*sdpa'):
        check_maskable(model)
    model.config._attn_implementation = "sdpa"
    model.config.layer_types = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    with pytest.raises(UsageError, match="linear_attention layers carry a state"):
        check_maskable(model)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_norm_and_head_reproduce_the_logits(family: str, tiny: Callable[[str], Any]) -> None:
    check_head(tiny(family).model)


def test_a_head_that_scales_its_input_is_refused(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama").model
    usual = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = usual(*args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    monkeypatch.setattr(model, "forward", scaled)
    with pytest.raises(InputError, match="final norm and LM head do not reproduce"):
        check_head(model)
