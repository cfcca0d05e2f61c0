"""ECSO does what its paper says: it asks whether the answer is harmful, and if so answers again without the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from support.decoding import asked

from safesteer_interp.defenses.defense import Response, Settings, answer
from safesteer_interp.defenses.ecso import ECSO
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0), batch_size=64)


class Scripted:
    """Stands in for the model's answers: each question type gets its own, and every question is kept."""

    def __init__(self, verdicts: list[str]) -> None:
        self.verdicts, self.asked = iter(verdicts), []  # type: ignore[var-annotated]

    def __call__(self, mllm: Any, requests: Sequence[Request], settings: Settings, **_: Any) -> list[Any]:
        self.asked += list(requests)
        found = []
        for request in requests:
            if "Answer yes or no" in request.text:
                text = next(self.verdicts)
            elif "describe the image" in request.text:
                text = "a red bicycle"
            else:
                text = "blind answer" if request.image is None else "first answer"
            found.append(Response(request, text, [1, 2]))
        return found


def test_ecso_answers_again_without_the_image_only_when_told_unsafe(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llava")
    first, second, third = asked(mllm)
    text_only = replace(third, image=None)
    script = Scripted(["No.", "Yes, it is"])
    monkeypatch.setattr("safesteer_interp.defenses.ecso.answer", script)
    answers = [Response(request, "first answer", [1, 2]) for request in (first, second, text_only)]
    found = ECSO(exact=False).review(mllm, answers, SETTINGS)
    assert [r.text for r in found] == ["first answer", "blind answer", "first answer"]
    assert [r.verdict.get("unsafe") for r in found] == [False, True, None]
    assert found[1].request == second and found[1].verdict["caption"] == "a red bicycle"
    again = script.asked[-1]
    assert again.image is None and "a red bicycle" in again.text and again.text.endswith(second.text)
    assert not ECSO().unsafe("Yes, it is") and ECSO().unsafe("yes.") and ECSO(exact=False).unsafe("Yes, it is")


def test_ecso_runs_on_a_model(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("qwen2_5_vl")
    found = ECSO(caption_tokens=4).respond(mllm, asked(mllm), SETTINGS)
    plain = answer(mllm, asked(mllm), SETTINGS)
    assert [r.request.id for r in found] == ["0", "1", "2"]
    for ours, undefended in zip(found, plain, strict=True):
        assert isinstance(ours.verdict["unsafe"], bool)
        assert ours.verdict["unsafe"] or ours.ids == undefended.ids, "an answer that it calls safe stays as it is"
