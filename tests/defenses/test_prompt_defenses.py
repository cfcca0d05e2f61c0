"""Defenses made of words: what they add, that they add nothing else, and what MRD asks before it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.decoding import asked

from safesteer_interp.defenses import asking
from safesteer_interp.defenses.adashield import AdaShield
from safesteer_interp.defenses.coca import CoCA
from safesteer_interp.defenses.composed import Composed
from safesteer_interp.defenses.defense import Response, Settings, StagedDefense, answer
from safesteer_interp.defenses.mrd import MRD, parse_risks
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.self_reminder import AFTER, BEFORE, SelfReminder
from safesteer_interp.errors import UsageError
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

GREEDY = Settings(Sampling(max_new_tokens=8, temperature=0.0), batch_size=8)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llama"])
def test_no_defense_is_the_model_token_for_token(family: str, tiny: Callable[[str], Any]) -> None:
    """Greedy decoding without a defense is transformers' own `generate`."""
    mllm = tiny(family)
    for request in asked(mllm):
        batch = mllm.encode([request])
        with torch.no_grad():
            own = mllm.model.generate(**batch.inputs, max_new_tokens=8, do_sample=False)[0, batch.input_ids.shape[1] :].tolist()
        ours = Undefended().respond(mllm, [request], GREEDY)[0].ids
        assert ours == own[: len(ours)] and (len(ours) == len(own) or ours[-1] in _ends(mllm))


def _ends(mllm: Any) -> set[int]:
    from safesteer_interp.models.special_tokens import stop_ids

    return set(stop_ids(mllm))


@pytest.mark.parametrize("defense", [AdaShield(), SelfReminder()])
def test_only_the_prompt_changes(defense: StagedDefense, planted: Any) -> None:
    some = planted_requests(2)
    for request in some:
        changed = defense.rewrite(planted, request)
        assert request.text in changed.text and changed.text != request.text
        assert replace(changed, text=request.text) == request, "image and labels are the request's own"
    assert not defense.edits(planted) and defense.contrast(planted) is None
    told = [defense.rewrite(planted, request) for request in some]
    assert [r.ids for r in defense.respond(planted, some, GREEDY)] == [r.ids for r in answer(planted, told, GREEDY)]
    assert [r.request for r in defense.respond(planted, some, GREEDY)] == some


def test_the_words_stand_where_they_belong(planted: Any) -> None:
    request = planted_requests(1)[0]
    assert AdaShield().rewrite(planted, request).text.endswith(f"Instruction: {request.text}")
    assert request.image is None and AdaShield(pictures_only=True).rewrite(planted, request) == request
    assert SelfReminder().rewrite(planted, request).text == f"{BEFORE}\n{request.text}\n{AFTER}"
    assert SelfReminder(after="").rewrite(planted, request).text == f"{BEFORE}\n{request.text}"
    with pytest.raises(UsageError, match=r"must hold \{query\}"):
        AdaShield(shield="Be careful.")


def test_risks_are_read_from_what_models_write() -> None:
    risk = {"malicious_content": "a forged letter", "source": "Image content", "risk_category": "Illegal activities"}
    assert parse_risks(f"Here it is:\n```json\n[{str(risk)!s}]\n```".replace("'", '"')) == [risk]
    assert parse_risks('[{"malicious_content": "x"}]') == [] == parse_risks("[]") == parse_risks("none") == parse_risks("[[[")
    assert parse_risks('[1, {"malicious_content": " ", "source": "a", "risk_category": "b"}]') == []
    one, two = (json.dumps(risk | {"malicious_content": what}) for what in ("a knife", "a [red] {flag}"))
    for said, whole in (
        (f"[{one}, {two[:30]}", 1),
        (f"[{one}, {two},]", 2),
        (f"As asked [see below]: [{one}]", 1),
        (f'{{"findings": [{one}, {two}]}}', 2),
        (f"{one}\n{two}", 2),
        ('{"a":' * 3000, 0),
    ):
        assert [r["malicious_content"] for r in parse_risks(said)] == ["a knife", "a [red] {flag}"][:whole]


class Scripted:
    """Stands in for the model: answers by what it is asked, and keeps every question."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, list[Request]()

    def __call__(self, mllm: Any, requests: Sequence[Request], settings: Settings, **_: Any) -> list[Response]:
        self.asked += requests
        return [Response(r, next(said for start, said in self.answers.items() if start in r.text), []) for r in requests]


def test_mrd_asks_verifies_and_puts_what_remains_before_the_request(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    risk = '{"malicious_content": "%s", "source": "Image content", "risk_category": "Violence"}'
    script = Scripted(
        {
            "harmful in the image.": f"[{risk % 'a knife'}, {risk % 'a spoon'}]",
            "harmful in the text": "nothing",
            "harmful in the image and": f"[{risk % 'a knife'}]",
            'content: "a knife"': "Yes.",
            'content: "a spoon"': "No",
        }
    )
    monkeypatch.setattr(asking, "answer", script)
    requests = [r for r in planted_requests(1) if r.attack.in_image][:1] + [r for r in planted_requests(1) if r.image is None][:1]
    shown, told = MRD().rewrites(planted, requests, GREEDY)
    assert shown.text == f"Risk Context: [{risk % 'a knife'}]\n\n{requests[0].text}" and shown.image is requests[0].image
    assert told == requests[1], "no risk: the request as it came"
    texts = [r.text for r in script.asked]
    assert sum('content: "a knife"' in text for text in texts) == 1, "what two questions find is verified once"
    about_image = [r for r in script.asked if "harmful in the image." in r.text]
    assert len(about_image) == 1 and requests[0].text not in about_image[0].text
    assert all(r.image is None for r in script.asked if "harmful in the text below." in r.text)
    unverified = MRD(verify="").rewrites(planted, requests[:1], GREEDY)[0]
    assert "a spoon" in unverified.text
    with pytest.raises(UsageError, match='no question "sound"'):
        MRD(questions=("sound",))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_mrd_composed_with_a_contrast_keeps_its_risks_in_both_readings(
    order: tuple[int, int], planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    risk = '[{"malicious_content": "a knife", "source": "Image content", "risk_category": "Violence"}]'
    script = Scripted({"Find what": risk})
    monkeypatch.setattr(asking, "answer", script)
    request = next(r for r in planted_requests(1) if r.attack.in_image)
    parts = (MRD(questions=("image",), verify=""), CoCA())
    ask = Composed(tuple(parts[i] for i in order)).asks(planted, [request], [0], GREEDY)[0]
    assert ask.beside is not None and ask.beside.text == f"Risk Context: {risk}\n\n{request.text}"
    assert ask.request.text.replace(f"{CoCA().principle} ", "") == ask.beside.text != ask.request.text
    assert len(script.asked) == 1 + (order == (1, 0)), "what comes before the contrast is asked once for both readings"


def test_mrd_runs_on_a_model(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    found = MRD(observation_tokens=4).respond(mllm, asked(mllm), GREEDY)
    assert [r.ids for r in found] == [r.ids for r in answer(mllm, asked(mllm), GREEDY)], "a model that lists no risks answers as it is"
