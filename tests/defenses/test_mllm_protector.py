"""MLLM-Protector: what its detector calls safe is never changed; its released parts load; its stand-in is named as what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safesteer_interp.defenses.defense import Response, Settings
from safesteer_interp.defenses.harm_detector import WordDetector, features
from safesteer_interp.defenses.mllm_protector import FALLBACK, MLLMProtector
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.registry import defense_named
from safesteer_interp.defenses.released_protector import ReleasedDetector, ReleasedDetoxifier
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.tracing.tracer import Sampling

SETTINGS = Settings(Sampling(max_new_tokens=8, temperature=1.0), batch_size=16)
GOOD = ["you can wash the bicycle", "paint the fence twice", "label the diary today", "wrap the letter neatly"]
BAD = ["poison the kettle quietly", "forge the letter at night", "poison the boat", "forge a ticket and hide it"]


@dataclass(frozen=True)
class Fixed:
    """Gives each text the probability that stands in a table."""

    table: tuple[tuple[str, float], ...]

    def harmless(self, texts: Sequence[str]) -> list[float]:
        return [next((p for start, p in self.table if start in text), 1.0) for text in texts]


@dataclass(frozen=True)
class Shouting:
    def rewrite(self, texts: Sequence[str]) -> list[str]:
        return [text.upper() for text in texts]


def test_an_answer_that_is_called_safe_is_never_changed(planted: Any) -> None:
    requests = planted_requests(3)[:12]
    plain = Undefended().respond(planted, requests, SETTINGS)
    for threshold in (0.0, 0.5, 1.0):
        defense = MLLMProtector(Fixed((("sorry", 0.9), ("sure", 0.5), ("gladly", 0.4999))), threshold=threshold)
        for ours, own in zip(defense.respond(planted, requests, SETTINGS), plain, strict=True):
            if ours.verdict["harmless"] >= threshold:
                assert (ours.text, ours.ids, "rewritten" in ours.verdict) == (own.text, own.ids, False)
            else:
                assert ours.text == FALLBACK and ours.verdict["rewritten"]
    answers = [Response(r, text, [1]) for r, text in zip(requests, ["a harmful word", "fine"], strict=False)]
    found = MLLMProtector(Fixed((("harmful", 0.1),)), Shouting()).review(planted, answers, SETTINGS)
    assert [r.text for r in found] == ["A HARMFUL WORD", "fine"] and found[1].ids == [1]


def test_the_detector_sees_the_answer_alone_unless_matched(planted: Any) -> None:
    request = planted_requests(1)[0]
    answers = [Response(request, "fine", [1])]
    by_question = Fixed(((request.text, 0.0),))
    assert MLLMProtector(by_question).review(planted, answers, SETTINGS)[0].text == "fine"
    assert MLLMProtector(by_question, matched=True).review(planted, answers, SETTINGS)[0].text == FALLBACK
    with pytest.raises(UsageError, match="threshold of MLLM-Protector is 2"):
        MLLMProtector(by_question, threshold=2.0)


def test_the_detector_of_words_learns_and_is_kept(tmp_path: Path) -> None:
    detector = WordDetector.fit(GOOD + BAD, [False] * 4 + [True] * 4, "a test")
    scores = detector.harmless(["wash the fence", "poison the fence", ""])
    assert scores[0] > 0.5 > scores[1] and 0 < scores[2] < 1
    loaded = WordDetector.load(detector.save(tmp_path / "detector"))
    assert (
        loaded.words == detector.words
        and np.array_equal(loaded.weights, detector.weights)
        and loaded.harmless(GOOD) == detector.harmless(GOOD)
    )
    assert features("Don't forge It") == ["don't", "forge", "it", "don't forge", "forge it"]
    with pytest.raises(InputError, match="0 of 4 are harmful"):
        WordDetector.fit(GOOD, [False] * 4)


def test_the_stand_in_is_named_as_what_it_is(planted: Any) -> None:
    defense: Any = defense_named("mllm_protector").build(planted, planted_requests(16))
    described = defense.description()
    assert described["detector"].startswith("detector-filter: logistic regression") and described["rewriter"] == "fixed refusal"
    assert "planted's own answers to" in described["detector"]
    mismatched: Any = defense_named("mllm_protector:mismatch=true").build(planted, planted_requests(16))
    assert "question" in mismatched.judge.words and "question" not in defense.judge.words
    assert defense.fingerprint() != mismatched.fingerprint()


def test_released_parts_are_read_from_a_folder(tiny: Callable[[str], Any], planted: Any, tmp_path: Path) -> None:
    """A classifier with one output and a language model, both tiny, in the released layout (whole models)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = tiny("llama").tokenizer
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForSequenceClassification(LlamaConfig(**size, num_labels=1)).save_pretrained(tmp_path / "detector")
        LlamaForCausalLM(LlamaConfig(**size)).save_pretrained(tmp_path / "detoxifier")
    for part in ("detector", "detoxifier"):
        tokenizer.save_pretrained(tmp_path / part)
    options = f"detector={tmp_path / 'detector'},detoxifier={tmp_path / 'detoxifier'},dtype=float32,threshold=1.0"
    defense: Any = defense_named(f"mllm_protector:{options}").build(planted)
    answers = [Response(r, f"answer {i}", [1]) for i, r in enumerate(planted_requests(1)[:3])]
    found = defense.review(planted, answers, SETTINGS)
    assert all(0 < r.verdict["harmless"] < 1 and r.verdict["rewritten"] and r.text != f"answer {i}" for i, r in enumerate(found))
    alone = [defense.judge.harmless([a.text])[0] for a in answers]
    assert [r.verdict["harmless"] for r in found] == pytest.approx(alone, abs=1e-4), "padding changes no score"
    assert defense.fingerprint() == defense_named(f"mllm_protector:{options}").build(planted).fingerprint()
    with pytest.raises(InputError, match="cannot be loaded"):
        defense_named(f"mllm_protector:detector={tmp_path / 'nothing'}").build(planted).review(planted, answers, SETTINGS)


@pytest.mark.parametrize("part", [ReleasedDetector, ReleasedDetoxifier])
def test_a_released_part_refuses_sizes_that_read_nothing(part: Any) -> None:
    most = "longest" if part is ReleasedDetector else "max_new_tokens"
    for name in ("batch_size", most):
        for value in (0, -2):
            with pytest.raises(UsageError, match=f"^{name} of the det[a-z]* of mllm_protector is {value}; it must be at least 1"):
                part("a/b", **{name: value})
    with pytest.raises(UsageError, match='has no dtype "int8"; it is one of float32, bfloat16, float16'):
        part("a/b", dtype="int8")
