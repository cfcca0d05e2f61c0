"""CoCA does what its paper says: two readings fed the same tokens, their difference amplified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.decoding import asked

from safesteer_interp.decoding.prefix import advance, prefill
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.composed import Composed
from safesteer_interp.defenses.defense import Settings, StagedDefense, answer
from safesteer_interp.errors import UsageError
from safesteer_interp.models.head import output_logits
from safesteer_interp.requests import Request
from safesteer_interp.tracing.sampling import draw, uniforms
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0), batch_size=64)


class Told(StagedDefense):
    """The model that is told CoCA's principle."""

    name = "told"

    def rewrite(self, mllm: Any, request: Request) -> Request:
        return CoCA().rewrite(mllm, request)


@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_coca_is_two_readings_fed_the_same_tokens(family: str, tiny: Callable[[str], Any]) -> None:
    """Against two plain decodings, request by request, joined by hand."""
    mllm, defense = tiny(family), CoCA(alpha=2.0)
    for request, response in zip(asked(mllm), defense.respond(mllm, asked(mllm), SETTINGS), strict=True):
        read = [prefill(mllm.model, mllm.encode([r]).inputs) for r in (defense.rewrite(mllm, request), request)]
        numbers, states, said = uniforms([request.key()], [SETTINGS.sampling.seed], 40)[0], [state for _, state in read], list[int]()
        while len(said) < len(response.ids):
            with torch.no_grad():
                told, plain = (output_logits(mllm.model, state) for state in states)
            token = draw(told + 2 * (told - plain), numbers[len(said)][None], SETTINGS.sampling.temperature)
            said.append(int(token))
            states = [advance(mllm.model, prefix, token) for prefix, _ in read]
        assert response.ids == said


def test_coca_without_amplification_is_the_principled_prompt(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    some = asked(mllm)
    defense = CoCA(alpha=0.0)
    greedy = replace(SETTINGS, sampling=Sampling(max_new_tokens=8, temperature=0.0))
    principled = [replace(r, text=f"{defense.principle} {r.text}") for r in some]
    assert [r.ids for r in defense.respond(mllm, some, greedy)] == [r.ids for r in answer(mllm, principled, greedy)]
    told = [r.ids for r in Told().respond(mllm, some, SETTINGS)]
    assert [r.ids for r in defense.respond(mllm, some, SETTINGS)] == told, "sampled: the random numbers are the request's own in both"
    amplified = CoCA(alpha=4.0).respond(mllm, some, greedy)
    assert [r.ids for r in amplified] != [r.ids for r in defense.respond(mllm, some, greedy)]
    assert [r.request.text for r in amplified] == [r.text for r in some], "the user's request is reported, not the rewritten one"
    one_by_one = [CoCA().respond(mllm, [r], SETTINGS)[0].ids for r in some]
    assert one_by_one == [r.ids for r in CoCA().respond(mllm, some, SETTINGS)]


class Polite(StagedDefense):
    """Asks politely."""

    name = "polite"

    def rewrite(self, mllm: Any, request: Request) -> Request:
        return replace(request, text=f"Please: {request.text}")


def test_coca_composed_contrasts_what_it_adds_itself(tiny: Callable[[str], Any]) -> None:
    mllm, some = tiny("llava"), asked(tiny("llava"))
    both = Composed((Polite(), CoCA()))
    first = both.asks(mllm, some, [0] * len(some))[0]
    assert first.request.text == f"{CoCA().principle} Please: {some[0].text}" and first.key == some[0].key()
    assert first.beside is not None and first.beside.text == f"Please: {some[0].text}"
    assert [r.request for r in both.respond(mllm, some, SETTINGS)] == some
    with pytest.raises(UsageError, match="coca and coca both contrast two readings"):
        Composed((CoCA(), CoCA(alpha=1.0))).respond(mllm, some, SETTINGS)


def test_coca_amplifies_the_difference_and_masks_the_implausible() -> None:
    with_principle, without = torch.tensor([[2.0, 1.0, -5.0]]), torch.tensor([[2.0, 0.0, -8.0]])
    assert CoCA(alpha=2.0).calibrated(with_principle, without).tolist() == [[2.0, 3.0, 1.0]]
    assert CoCA(alpha=2.0, plausibility=0.1).calibrated(with_principle, without).tolist() == [[2.0, 3.0, -torch.inf]]
    with pytest.raises(UsageError, match="plausibility is 2"):
        CoCA(plausibility=2)
