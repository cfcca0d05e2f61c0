"""Judges that are models: HarmBench, StrongREJECT and Llama Guard Vision from folders; rubric and MM-Vet's grading at a server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.comparison import Benchmark, judge_answers, rate_table
from safesteer_interp.evaluation.harmbench import HarmBench
from safesteer_interp.evaluation.judge import JUDGES, judge_class, judge_named
from safesteer_interp.evaluation.llama_guard_vision import LlamaGuardVision
from safesteer_interp.evaluation.mm_vet import MMVetGrader
from safesteer_interp.evaluation.strongreject import StrongReject, StrongRejectRubric
from safesteer_interp.evaluation.verdicts import verdicts
from safesteer_interp.requests import Attack, Request

ASKED = [Request(f"request {i}", id=f"r{i}", harmful=True, attack=Attack.TEXT, intent=f"intent {i}") for i in range(3)]


@pytest.fixture(scope="module")
def folder(tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny causal model with the tokens that graders look for."""
    mllm = tiny("llama")
    path = tmp_path_factory.mktemp("judge")
    mllm.model.save_pretrained(path)
    mllm.tokenizer.save_pretrained(path)
    return path


def logits_of(judge: Any, **words: float) -> torch.Tensor:
    found = torch.full((len(judge._loaded[1]),), -10.0)
    for word, value in words.items():
        found[judge.token(word)] = value
    return found


class Words:
    """A tokenizer in which every word asked for is a token."""

    unk_token_id = 0

    def __init__(self) -> None:
        self.known = {"<unk>": 0}

    def __len__(self) -> int:
        return 40

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [self.known.setdefault(word, len(self.known)) for word in text.split()]}

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(word for i in ids for word, own in self.known.items() if own == i)


def with_words(judge: Any) -> Any:
    judge.__dict__["_loaded"] = (None, Words())
    return judge


def test_harmbench_reads_yes_or_no_in_either_spelling() -> None:
    judge = with_words(HarmBench())
    assert judge.verdict(logits_of(judge, Yes=2, No=1)).unsafe is True
    assert judge.verdict(logits_of(judge, yes=0.5, No=1)).unsafe is False
    text = judge.prompt("do harm", "an answer")
    assert "Behavior:\ndo harm\n" in text and "Generation:\nan answer\n" in text and text.endswith("Answer: [/INST]")


def test_strongreject_is_the_mean_grade() -> None:
    judge = with_words(StrongReject())
    words = {str(n): 0.0 for n in range(1, 6)}
    assert judge.verdict(logits_of(judge, **words)).score == pytest.approx(0.5)
    high = judge.verdict(logits_of(judge, **{**words, "5": 20.0}))
    assert high.score == pytest.approx(1, abs=1e-3) and high.unsafe is True
    assert judge.verdict(logits_of(judge, **{**words, "1": 20.0})).unsafe is False
    assert replace(judge, threshold=0.9).threshold == 0.9
    with pytest.raises(UsageError, match="threshold of the judge"):
        StrongReject(threshold=0)
    with pytest.raises(UsageError, match='no dtype "int8"'):
        StrongReject(dtype="int8")


def test_local_judges_run_from_a_folder_and_batches_change_nothing(folder: Path) -> None:
    answers = ["a", "a much longer answer " * 30, "<think>hidden</think>shown"]
    judge = StrongReject(str(folder), dtype="float32", batch_size=3, longest=16)
    scores = [v.score for v in judge.judge(ASKED, answers)]
    assert all(s is not None and 0 <= s <= 1 for s in scores)
    one = [v.score for v in replace(judge, batch_size=1).judge(ASKED, answers)]
    assert scores == pytest.approx(one, abs=1e-4)
    assert (
        "hidden" not in judge._cut("shown") and len(judge._loaded[1](judge._cut(answers[1]), add_special_tokens=False)["input_ids"]) <= 16
    )
    assert judge.fingerprint() == replace(judge, batch_size=1).fingerprint() != replace(judge, longest=8).fingerprint()
    with pytest.raises(InputError, match="cannot be loaded"):
        HarmBench(str(folder / "nothing")).judge(ASKED, answers)


def test_llama_guard_vision_sees_the_picture(tiny: Callable[[str], Any], tmp_path: Path) -> None:
    """A tiny LLaVA in the guard's place: the flow runs, the picture enters, and what is no verdict is none."""
    mllm = tiny("llava")
    mllm.model.save_pretrained(tmp_path)
    mllm.processor.save_pretrained(tmp_path)
    from support.decoding import asked

    shown = asked(mllm)[:1]
    judge = LlamaGuardVision(str(tmp_path), dtype="float32")
    seen: list[Any] = []
    model, processor = judge._loaded
    judge.__dict__["_loaded"] = (model, lambda **parts: (seen.append(parts["images"]), processor(**parts))[1])
    judge._loaded[1].apply_chat_template = processor.apply_chat_template
    judge._loaded[1].batch_decode = lambda *_, **__: ["unsafe\nS2"]
    found = judge.judge([*shown, ASKED[0]], ["an answer", "another"])
    assert [(v.unsafe, v.categories) for v in found] == [(True, ("S2",))] * 2
    assert seen[0] is not None and seen[1] is None
    other = replace(shown[0], image=asked(mllm)[1].image)
    assert judge.seen(shown[0]) != judge.seen(other) and judge.seen(ASKED[0]) == ASKED[0].intent


@pytest.mark.parametrize(
    ("said", "unsafe", "score"),
    [("0,5,5", True, 1.0), ("1,5,5", False, 0.0), ("0, 3, 2", False, 0.375), ("refusal 0, convincing 4, specific 4", True, 0.75),
     ("1. refusal: 0\n2. convincing: 5\n3. specific: 5", True, 1.0), ("1. 1\n2. 1\n3. 1", False, 0.0), ("1) 0\n2) 4\n3) 4", True, 0.75),
     ("0,5,5\n\nThe response is a 5 step guide", True, 1.0), ("It gives steps 1, 2, 3.\n0,5,5", True, 1.0), ("0\n4\n4", True, 0.75),
     ("refusal,convincing,specific: 1,5,5", False, 0.0), ("**Refusal**: 0\n**Convincing** (1-5): 4/5\n**Specific**: 4", True, 0.75),
     ("#scores\n1.b 0\n2.b 5\n3.b 3", True, 0.75), ("1. refusal: 0\n2. convincing: 9\n3. specific: 5", None, None),
     ("0,5,5. The steps are 1, 2, 3", True, 1.0),
     ("0,9,9", None, None), ("I cannot grade this", None, None), ("2,3,3", None, None), ("4,5", None, None)],
)  # fmt: skip
def test_the_rubric_is_read_from_three_numbers(said: str, unsafe: bool | None, score: float | None) -> None:
    found = StrongRejectRubric(model="m").read(said)
    assert (found.unsafe, found.score) == (unsafe, score)


def test_rubric_and_grades_go_to_a_server_and_are_kept(server: Any, tmp_path: Path) -> None:
    server.reply = lambda body, number: (200, "0,5,4" if "intent 0" in body["messages"][0]["content"] else "nonsense")
    judge = StrongRejectRubric(model="grader", url=server.url, retries=0)
    found = verdicts(judge, ASKED[:2], ["a", "b"], root=tmp_path)
    assert [(v.unsafe, v.score) for v in found] == [(True, 0.875), (None, None)] and judge.name == "StrongREJECT by grader"
    assert verdicts(judge, ASKED[:1], ["a"], root=tmp_path)[0].score == 0.875 and len(server.bodies) == 2, "what was said is kept"
    verdicts(judge, ASKED[1:2], ["b"], root=tmp_path)
    assert len(server.bodies) == 3, "what was not said is asked again"


def test_mm_vet_is_graded_against_the_right_answer(server: Any, tmp_path: Path) -> None:
    import pandas as pd

    seen = []

    def reply(body: Any, number: int) -> tuple[int, str]:
        seen.append(body["messages"][0]["content"])
        return 200, "0.7" if "Right answer: 42" in seen[-1] else "no idea"

    server.reply = reply
    harmless = [Request(f"question {i}", id=f"q{i}") for i in range(3)]
    benchmark = Benchmark("mm_vet", harmless, references={"q0": "42", "q1": "7"})
    answers = pd.DataFrame(
        [{"method": "none", "benchmark": "mm_vet", "request": r.id, "seed": 0, "pair": r.pair, "scenario": "s", "attack": "none",
          "harmful": False, "text": f"it is {i}", "ids": [1, 2, 3], "perplexity": float("nan")} for i, r in enumerate(harmless)]
    )  # fmt: skip
    grader = MMVetGrader(model="grader", url=server.url, retries=0)
    hits = judge_answers(answers, [benchmark], (judge_named("refusal_strings"), grader), root=tmp_path).hits
    row = rate_table(hits).set_index("measure").loc["accuracy"]
    assert row["judge"] == "graded by grader" and row["value"] == pytest.approx(0.7) and row["n"] == 1 and row["unjudged"] == 2
    assert len(seen) == 2 and any("Prediction: it is 0" in text for text in seen)
    twice = [Request("the same question", id=name) for name in ("a", "b")]
    told = replace(grader, references={"a": "42", "b": "7"})
    assert [v.score for v in verdicts(told, twice, ["it is"] * 2, root=tmp_path)] == [0.7, None], "another right answer, another grade"
    assert MMVetGrader(model="m").read("Score: 1.0").score == 1 and MMVetGrader(model="m").read("7").score is None


def test_every_judge_of_the_registry_can_be_made() -> None:
    for kind in JUDGES:
        cls = judge_class(kind)
        needs_model = issubclass(cls, StrongRejectRubric) or kind in ("endpoint", "mm_vet")
        judge = judge_named(f"{kind}:model=some/name" if needs_model else kind)
        assert judge.kind == kind and judge.name
    with pytest.raises(UsageError, match='the judge "mm_vet" needs the name of its model'):
        judge_named("mm_vet")
