"""Prompts read once: the same answers as when every prompt is read anew, whatever was answered in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.decoding import BEST, ByRank, asked, ids

from safesteer_interp.decoding import prompt_cache as prompts
from safesteer_interp.decoding.answering import generate
from safesteer_interp.decoding.policies import PLAIN, Guided
from safesteer_interp.decoding.prompt_cache import forgetting_prompts, remembering_prompts
from safesteer_interp.sites import Site
from safesteer_interp.tracing.tracer import At, Edit, Sampling

SAMPLED = Sampling(max_new_tokens=8, temperature=1.0, seed=3)
GUIDED = Guided(ByRank(1), k=3, steps=4, choice=BEST)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the prompt passes that are made, filled as they happen."""
    seen: list[int] = []
    real = prompts.prefill

    def counted(model: Any, inputs: Any) -> Any:
        seen.append(len(inputs["input_ids"]))
        return real(model, inputs)

    monkeypatch.setattr(prompts, "prefill", counted)
    return seen


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "llama"])
def test_answers_are_the_same_from_memory(family: str, tiny: Callable[[str], Any], reads: list[int]) -> None:
    mllm = tiny(family)
    requests = asked(mllm)
    plain, guided = ids(generate(mllm, requests, PLAIN, SAMPLED)), ids(generate(mllm, requests, GUIDED, SAMPLED))
    assert plain != guided
    reads.clear()
    with remembering_prompts(mllm):
        for _ in range(2):  # the second time, what the first wrote must be gone
            assert ids(generate(mllm, requests, PLAIN, SAMPLED)) == plain
            assert ids(generate(mllm, requests, GUIDED, SAMPLED)) == guided
        assert ids(generate(mllm, requests[1:], PLAIN, SAMPLED)) == plain[1:]
    assert reads == [len(requests)]
    assert mllm.prompts is None


def test_another_prompt_is_read(tiny: Callable[[str], Any], reads: list[int]) -> None:
    mllm = tiny("llava")
    first, *others = asked(mllm)
    with remembering_prompts(mllm):
        generate(mllm, [first, *others], PLAIN, SAMPLED)
        generate(mllm, [replace(first, text=first.text + " please"), *others], PLAIN, SAMPLED)
        system, mllm.system_prompt = mllm.system_prompt, "Answer briefly."
        generate(mllm, [first], PLAIN, SAMPLED)
        mllm.system_prompt = system
    assert reads == [len(others) + 1, 1, 1]


def test_memory_is_bounded_and_can_be_switched_off(tiny: Callable[[str], Any], reads: list[int]) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    with remembering_prompts(mllm, limit=10):
        generate(mllm, requests, PLAIN, SAMPLED)
        generate(mllm, requests, PLAIN, SAMPLED)
        assert len(reads) == 2
        assert not mllm.prompts.readings
    with remembering_prompts(mllm):
        generate(mllm, requests, PLAIN, SAMPLED)
        with remembering_prompts(mllm, limit=10):
            generate(mllm, requests, PLAIN, SAMPLED)
        with forgetting_prompts(mllm):
            generate(mllm, requests, PLAIN, SAMPLED)
        generate(mllm, requests, PLAIN, SAMPLED)
    assert len(reads) == 4


def test_edits_of_the_final_norm_share_the_prompt_and_others_do_not(tiny: Callable[[str], Any], reads: list[int]) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    seen: list[tuple[int, ...]] = []

    def push(hidden: torch.Tensor, at: At) -> torch.Tensor:
        seen.append((at.step, int(at.last_prompt.sum())))
        return torch.where(at.last_prompt[..., None], hidden + 3.0 * torch.sign(hidden), hidden)

    late, early = Edit((Site.parse("final_norm"),), push), Edit((Site.parse("resid_post.0"),), push)
    whole = Edit((Site.parse("final_norm"), Site.parse("resid_post.0")), lambda h, at: push(h, at) if at.site.layer is None else h * 1.0)
    read_with_it = ids(generate(mllm, requests, PLAIN, SAMPLED, edits=[whole]))  # the hooks see the whole prompt
    assert ids(generate(mllm, requests, PLAIN, SAMPLED)) != read_with_it
    seen.clear()
    reads.clear()
    with remembering_prompts(mllm):
        assert ids(generate(mllm, requests, PLAIN, SAMPLED, edits=[late])) == read_with_it
        assert seen[0] == (0, len(requests))
        assert [step for step, _ in seen] == list(range(len(seen)))
        generate(mllm, requests, PLAIN, SAMPLED)
        generate(mllm, requests, PLAIN, SAMPLED, edits=[early])
    assert reads == [len(requests)]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "llama"])
def test_a_batch_is_put_together_from_several_earlier_ones(family: str, tiny: Callable[[str], Any], reads: list[int]) -> None:
    mllm = tiny(family)
    first, second, third = asked(mllm)
    mixed = [third, first, second]
    plain, guided = ids(generate(mllm, mixed, PLAIN, SAMPLED)), ids(generate(mllm, mixed, GUIDED, SAMPLED))
    reads.clear()
    with remembering_prompts(mllm):
        generate(mllm, [second], PLAIN, SAMPLED)
        generate(mllm, [second, third], PLAIN, SAMPLED)
        assert ids(generate(mllm, mixed, PLAIN, SAMPLED)) == plain
        assert ids(generate(mllm, mixed, GUIDED, SAMPLED)) == guided
        assert ids(generate(mllm, mixed, PLAIN, SAMPLED)) == plain, "what the second wrote must be gone"
    assert reads == [1, 1, 1], "each prompt is read once, whatever it is answered with"
