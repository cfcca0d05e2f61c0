"""Edits from the last prompt token on: the same states and answers as reading the whole prompt under them, at the price of one token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.decoding import asked

from safesteer_interp.decoding import prompt_cache
from safesteer_interp.decoding.answering import generate
from safesteer_interp.decoding.late import first_states
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.tracer import At, Edit, Sampling

SAMPLED = Sampling(max_new_tokens=6, temperature=1.0)
FAMILIES = ("llava", "qwen2_5_vl", "llama", "gemma3", "paligemma")
FINAL, LAST = Site.parse("final_norm"), "last_prompt"


def pushed(site: str, by: float) -> Edit:
    """Pushes the last prompt token and every answer token."""

    def push(h: torch.Tensor, at: At) -> torch.Tensor:
        return torch.where((at.last_prompt | (at.roles == int(Role.GENERATED)))[..., None], h + by * torch.sign(h), h)

    return Edit((Site.parse(site),), push, late=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_under_late_edits_are_those_of_a_whole_prompt_pass(family: str, tiny: Callable[[str], Any]) -> None:
    from safesteer_interp.sites import parse_reads

    mllm = tiny(family)
    requests, (read,) = asked(mllm), parse_reads(LAST)
    ways = [(), (pushed("resid_post.1", 0.4),), (pushed("resid_post.0", -0.3), pushed("final_norm", 0.2)), (pushed("embed", 0.1),)]
    found = first_states(mllm, requests, ways, batch_size=3)
    for states, edits in zip(found, ways, strict=True):
        alone = [HooksTracer(mllm).capture(mllm.encode([r]), [FINAL], [read], edits=edits).states[FINAL, read][0].float() for r in requests]
        torch.testing.assert_close(states, torch.stack(alone), rtol=2e-4, atol=2e-4)
    assert (found[1] - found[0]).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_under_late_edits_are_those_of_edits_that_read_the_prompt_anew(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    requests = asked(mllm)
    late = pushed("resid_post.1", 0.4)
    ids = [
        [one.ids for one in generate(mllm, requests, sampling=SAMPLED, edits=[edit], batch_size=4)]
        for edit in (late, replace(late, late=False))
    ]
    assert ids[0] == ids[1]
    assert ids[0] != [one.ids for one in generate(mllm, requests, sampling=SAMPLED)]


def test_a_prompt_is_read_once_for_all_late_edits(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mllm, read = tiny("llava"), []
    real = prompt_cache.prefill

    def counted(model: Any, inputs: Any) -> Any:
        read.append(len(inputs["input_ids"]))
        return real(model, inputs)

    monkeypatch.setattr(prompt_cache, "prefill", counted)
    requests = asked(mllm)
    first_states(mllm, requests, [(pushed("resid_post.1", by),) for by in (0.1, 0.2, 0.3, 0.4)])
    assert sum(read) == len(requests)
    with prompt_cache.remembering_prompts(mllm):
        plain = first_states(mllm, requests, [()])
        first_states(mllm, requests, [(pushed("resid_post.1", 0.4),)])
        torch.testing.assert_close(first_states(mllm, requests, [()]), plain, rtol=0, atol=0)  # what is remembered is not written to
    assert sum(read) == 2 * len(requests)
