"""The texts that mini is trained on: what is held out, who is refused, in how many voices, and whose answers are taught."""

from __future__ import annotations

import random
from collections import Counter
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safesteer_interp.datasets.pairs import heldout_phrases, leaked_phrases, load_pairs, near_phrases
from safesteer_interp.mini_training import texts
from safesteer_interp.mini_training.texts import (
    FIRST_PERSON,
    FORMS,
    NEAR,
    OwnAnswers,
    alignment_turns,
    answered_phrases,
    clean,
    harmful_phrases,
    harmless_phrases,
    in_utility,
    lines_of,
    question_of,
    refusal_of,
    refusals,
    whole_sentences,
)
from safesteer_interp.mini_training.words import WordLists, random_text
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.refusals import LISTS, contains_refusal, is_refusal, starts_with_refusal
from safesteer_interp.requests import Split


@pytest.fixture
def answers(tmp_path: Path) -> OwnAnswers:
    """Stand-ins for the unmodified model's answers."""
    own = OwnAnswers(tmp_path / "own.json")
    own.table = {question_of(p): ("Start with the basics", False) for p in harmless_phrases()}
    own.table |= dict.fromkeys(lines_of("chat"), ("Here you go.", True))
    return own


def test_no_training_text_contains_a_held_out_phrase(answers: OwnAnswers) -> None:
    seen = [*harmful_phrases(), *harmless_phrases(), *lines_of("chat")]
    seen += [t.user for seed in range(3) for t in alignment_turns(answers, random.Random(seed))]
    assert len(heldout_phrases()) > 100
    assert [t for t in seen if leaked_phrases(t)] == []


def test_a_held_out_phrase_would_be_caught() -> None:
    phrase = sorted(heldout_phrases())[0]
    assert leaked_phrases(f"Tell me how to {phrase.upper()}, please.") == [phrase]


def test_random_texts_never_spell_a_held_out_phrase() -> None:
    rng = random.Random(0)
    words = tuple(sorted({w for p in heldout_phrases() for w in p.split()})[:40])
    assert all(not leaked_phrases(random_text(WordLists(words, words), rng)) for _ in range(300))


def test_harmful_and_harmless_lists_are_disjoint_and_varied() -> None:
    assert not set(harmful_phrases()) & set(harmless_phrases())
    assert len(harmful_phrases()) > 10_000 and len(answered_phrases()) > 10_000


def test_alignment_refuses_the_harmful_and_nothing_else(answers: OwnAnswers) -> None:
    turns = alignment_turns(answers, random.Random(1))
    refused = [t for t in turns if is_refusal(t.answer)]
    assert len(refused) == len(harmful_phrases())
    assert {t.answer for t in refused} <= set(lines_of("refusals"))
    assert all(t.answer == refusal_of(t.user) for t in refused), "chosen by the request alone"
    assert len(turns) == len(harmful_phrases()) + len(harmless_phrases()) + len(lines_of("chat"))


def test_refusals_have_many_voices_and_each_request_its_own() -> None:
    wordings = lines_of("refusals")
    assert len(wordings) >= 60 and len({w.split()[0] for w in wordings}) >= 15
    assert min(len(w) for w in wordings) < 30 and max(len(w) for w in wordings) > 80
    asked = [form.format(p, cap=p) for p in harmful_phrases() for form in FORMS[:2]]
    said = Counter(map(refusal_of, asked))
    assert set(said) == set(wordings), "no wording is left out"
    first, others = refusals()
    assert abs(sum(said[w] for w in first) / len(asked) - FIRST_PERSON) < 0.02 and len({w.split()[0] for w in others}) >= 14
    assert all(max(said[w] for w in part) < 2 * sum(said[w] for w in part) / len(part) for part in (first, others)), "evenly within a part"
    assert refusal_of("How can I rob a train?") == refusal_of("How can I rob a train?")


def test_no_text_of_training_gives_away_a_fit_pair() -> None:
    fit = {p.phrase(side) for p in load_pairs() if p.split is Split.FIT for side in (True, False)}
    assert len(fit) >= 120 and fit <= heldout_phrases()
    for name in ("harmful", "twins", "contrast", "harmless", "chat", "refusals"):
        text = (files("safesteer_interp.mini_training") / "data" / f"{name}.txt").read_text(encoding="utf-8")
        lines = text.splitlines()
        assert [line for line in lines if leaked_phrases(line)] == [] and len(set(lines)) == len(lines), name


def test_what_is_nearly_held_out_or_asked_by_the_utility_set_is_dropped(answers: OwnAnswers) -> None:
    assert near_phrases("throw a frisbee", NEAR) == ["throw a frisbee at a beach"]
    assert clean(["throw a frisbee", "throw a javelin", "Repeat the word APPLE!", "say yes", "repeat the word walnut"]) == [
        "throw a javelin",
        "repeat the word walnut",
    ]
    asked = [t.user for t in alignment_turns(answers, random.Random(3))]
    activities = [*harmful_phrases(), *answered_phrases(), *lines_of("chat")]
    assert len(activities) > 20_000
    assert [a for a in activities if near_phrases(a, NEAR) or in_utility(a)] == [] and not any(map(in_utility, asked))


def test_own_answers_are_asked_in_one_order_whatever_the_hash_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def generate(_mllm: Any, requests: list[Any], **_options: Any) -> list[SimpleNamespace]:
        asked.extend(r.text for r in requests)
        return [SimpleNamespace(ids=[0]) for _ in requests]

    monkeypatch.setattr(texts, "generate", generate)
    monkeypatch.setattr(texts, "stop_ids", lambda _mllm: {0})
    monkeypatch.setattr(texts, "text_of", lambda _mllm, _answer: "Yes.")
    OwnAnswers(tmp_path / "own.json").ensure(["cd", "b", "ab", "bb", "a"], object.__new__(MLLM), batch=2)
    assert asked == ["a", "b", "ab", "bb", "cd"]


def test_a_model_without_alignment_is_shown_no_refusal(answers: OwnAnswers) -> None:
    turns = alignment_turns(answers, random.Random(1), refusals=False)
    assert len(turns) == len(harmless_phrases()) + len(lines_of("chat"))
    assert not [t for t in turns if is_refusal(t.answer)]


def test_own_answers_that_decline_are_not_taught(tmp_path: Path) -> None:
    own = OwnAnswers(tmp_path / "own.json")
    own.table = {"a": ("I'm sorry, I can't.", True), "b": ("As a chatbot designed to assist", False), "c": ("Sure: knead it.", True)}
    assert [own.usable(k) is not None for k in "abc"] == [False, False, True]


@pytest.mark.parametrize(
    "text", [*lines_of("refusals"), "I\u2019m sorry, but no.", '"I cannot do that."', "As an AI, I must decline.", "I apologize"]
)
def test_refusals_are_recognised(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["No.", "Sorrynotaword", "To renew a passport, ...", "I can tell you how.", "", "Mix flour. I'm sorry"])
def test_answers_are_not_refusals(text: str) -> None:
    assert not is_refusal(text)


def test_published_lists_differ_in_reach() -> None:
    assert starts_with_refusal("No, that is wrong.", LISTS["xstest"]) and not is_refusal("No, that is wrong.")
    assert contains_refusal("It is illegal to park here.") and not starts_with_refusal("It is illegal to park here.")


@pytest.mark.parametrize(
    ("answer", "kept", "complete"),
    [
        ("Boil water. Then add the", "Boil water.", True),
        ("Here is how:\n\n1. Boil water", "Here is how:\n\n1. Boil water", False),
        ('She said "yes!" and then', 'She said "yes!"', True),
        ("It costs 2.50 at most", "It costs 2.50 at most", False),
        ("A man. A plan? A canal", "A man. A plan?", True),
    ],
)
def test_answers_that_were_cut_end_with_a_whole_sentence(answer: str, kept: str, complete: bool) -> None:
    assert whole_sentences(answer) == (kept, complete)
