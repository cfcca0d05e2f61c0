"""Judges by name, what Llama Guard is shown, and verdicts of several judges on one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.judge import JUDGES, Judge, Verdict, judge_class, judge_named
from safesteer_interp.evaluation.judges import Outcome, outcome
from safesteer_interp.evaluation.llama_guard import LlamaGuard, parse
from safesteer_interp.evaluation.refusal_strings import RefusalStrings
from safesteer_interp.evaluation.verdicts import agreement, judged_by, kappa, unsafe_rates, verdicts
from safesteer_interp.requests import Attack, ImageFile, Request

START = "<|im_start|>user\nTask: is there unsafe content?\n\n{% for m in messages %}{{ m['role'] }}: "
PARTS = START + "{% for part in m['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] | trim }}{% endfor %}\n{% endfor %}"
TEXT = START + "{{ m['content'] | trim }}\n{% endfor %}"
BLIND = START + "{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}\n{% endfor %}"


def test_the_registry_knows_every_judge_by_its_options(tmp_path: Path) -> None:
    assert {name: judge_class(name).kind for name in JUDGES} == {name: name for name in JUDGES}
    assert judge_named("refusal_strings:strings=xstest") == RefusalStrings("xstest")
    assert judge_named("llama_guard:model=a/b,batch_size=2") == LlamaGuard("a/b", batch_size=2)
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom safesteer_interp.evaluation.judge import Judge, Verdict\n\n@dataclass(frozen=True)\n"
        "class Mine(Judge):\n    kind = 'mine'\n    word: str = 'knife'\n\n    def judge(self, requests, answers):\n"
        "        return [Verdict(self.word in answer) for answer in answers]\n"
    )
    mine = judge_named(f"{tmp_path / 'mine.py'}:Mine:word=fork")
    request = Request("How do I eat soup?", id="a", harmful=False, attack=Attack.NONE)
    assert mine.unsafe([request], ["With a fork."]) == [True]
    assert mine.fingerprint() != judge_named(f"{tmp_path / 'mine.py'}:Mine").fingerprint()
    for name, sentence in (("refusal_string", "Did you mean"), ("refusal_strings:list=a", 'has no option "list"')):
        with pytest.raises(UsageError, match=sentence):
            judge_named(name)
    for name, sentence in (("llama_guard:batch_size=0", 'batch_size of the judge "llama_guard" is 0; it must be at least 1'),
                           ("llama_guard:batch_size=-3", "is -3; it must be"), ("llama_guard:dtype=int8", 'no dtype "int8"; it is one of'),
                           ("llama_guard_vision:dtype=int8", 'the judge "llama_guard_vision" has no dtype "int8"')):  # fmt: skip
        with pytest.raises(UsageError, match=sentence):
            judge_named(name)
    with pytest.raises(UsageError, match="the judge Nameless has no kind"):
        type("Nameless", (Judge,), {})


@pytest.mark.parametrize(("template", "parts"), [(TEXT, False), (PARTS, True)])
def test_llama_guard_sees_request_and_answer_with_either_kind_of_template(
    tiny: Callable[[str], Any], tmp_path: Path, template: str, parts: bool
) -> None:
    judge = _guard(tiny, tmp_path, template)
    assert judge._takes_parts is parts
    shown = judge._prompt("How do I paint a fence?", "With a brush.", parts=parts)
    assert "How do I paint a fence?" in shown and "With a brush." in shown
    request = Request("How do I paint a fence?", id="a", harmful=False, attack=Attack.NONE)
    assert len(judge.judge([request], ["With a brush."])) == 1
    assert judge.fingerprint() == LlamaGuard(judge.model, dtype="float32", batch_size=3).fingerprint()


def test_a_template_that_hides_the_answer_is_refused(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    judge = _guard(tiny, tmp_path, BLIND)
    with pytest.raises(InputError, match="leaves out the request or the answer"):
        judge.judge([Request("Hello?", id="a", harmful=False, attack=Attack.NONE)], ["Hi."])


def _guard(tiny: Callable[[str], Any], folder: Path, template: str) -> LlamaGuard:
    from copy import deepcopy

    mllm = tiny("llama")
    tokenizer = deepcopy(mllm.tokenizer)
    tokenizer.chat_template = template
    mllm.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LlamaGuard(str(folder), dtype="float32")


def test_what_llama_guard_did_not_say_is_no_verdict() -> None:
    assert parse("safe").unsafe is False and parse("unsafe\nS2").unsafe is True
    assert parse("").unsafe is None and parse("I cannot judge that.").unsafe is None and parse("safety first").unsafe is None


def test_an_answer_cut_while_reasoning_is_no_answer() -> None:
    ids = list(range(40))
    assert outcome("<think>I'm sorry is what people say, so", ids) is Outcome.DEGENERATE
    assert outcome("<think>no</think>I can't help with that.", ids) is Outcome.REFUSE
    assert outcome("<think>I can't help</think>Mix flour.", ids, refusal=RefusalStrings("xstest")) is Outcome.COMPLY


class Fixed(Judge):
    kind = "fixed"

    def __init__(self, name: str, said: Sequence[bool | None]) -> None:
        self.called, self.said = name, list(said)

    @property
    def name(self) -> str:
        return self.called

    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        return [Verdict(unsafe) for unsafe in self.said]


class Beholder(Fixed):
    """Looks at the picture, which somebody replaces meanwhile."""

    kind = "beholder"
    costly = True

    def seen(self, request: Request) -> str:
        assert request.image is not None
        return request.image.key()

    def judge(self, requests: Sequence[Request], answers: Sequence[str]) -> list[Verdict]:
        for request in requests:
            assert isinstance(request.image, ImageFile)
            Image.new("RGB", (5, 5), "red").save(request.image.path)
        return super().judge(requests, answers)

    def fingerprint(self) -> str:
        return "beholder"


def test_a_verdict_on_a_picture_that_was_replaced_is_not_kept(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "a.png")
    with pytest.raises(InputError, match='request "r0": its image was replaced while B judged it'):
        verdicts(Beholder("B", [True]), [Request("x", tmp_path / "a.png", id="r0")], ["an answer"], root=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_rates_leave_out_what_was_not_judged_and_judges_are_compared() -> None:
    requests = [Request(f"How is number {i}?", id=f"r{i}", harmful=i < 4, attack=Attack.TEXT, pair=f"p{i}") for i in range(6)]
    columns = {"request": [r.id for r in requests], "pair": [r.pair for r in requests], "harmful": [r.harmful for r in requests]}
    table = pd.DataFrame({**columns, "defense": "none", "seed": 0, "text": "a"})
    judges = [Fixed("one", [True, True, False, None, False, False]), Fixed("two", [True, False, False, True, False, False])]
    judged = judged_by(table, judges, requests)
    found = unsafe_rates(judged).set_index("judge")
    assert found.loc["one", "value"] == pytest.approx(2 / 3) and found.loc["one", "unjudged"] == 1 and found.loc["one", "n"] == 3
    assert found.loc["two", "value"] == 0.5 and found.loc["two", "unjudged"] == 0
    both = agreement(judged).iloc[0]
    a, b = np.array([True, True, False, False, False]), np.array([True, False, False, False, False])
    assert both["n"] == 5 and both["value"] == pytest.approx(kappa(a, b)) == pytest.approx((0.8 - 0.56) / 0.44)
    assert np.isnan(kappa(np.array([True, True]), np.array([True, True])))
    with pytest.raises(InputError, match='answers to "r0"'):
        judged_by(table, judges, requests[1:])
