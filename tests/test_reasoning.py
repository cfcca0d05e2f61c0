"""Reasoning blocks are no part of an answer, however they are marked."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.reasoning import strip_reasoning


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Mix flour.", "Mix flour."),
        ("<think>\nno\n</think>\n\nYes.", "Yes."),
        ("the prompt opened it\n</think>\n\nYes.", "Yes."),
        ("<think>cut while thinking", ""),
        ("Before. <think>a</think>After.", "Before. After."),
        ("<think>a</think>One.<think>b</think>Two.", "One.Two."),
        ("<THINKING>a</THINKING>Yes.", "Yes."),
        ("<think>a</think><answer>Yes.</answer>", "Yes."),
        ("[THINK]a[/THINK]Yes.", "Yes."),
        ("◁think▷a◁/think▷Yes.", "Yes."),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>", "Yes."),
        ("<|channel|>analysis<|message|>cut while thin", ""),
        ("<|channel|>final <|constrain|>json<|message|>{}", "{}"),
        ("analysisThey ask.assistantfinalYes.", "Yes."),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>Yes.<|END_RESPONSE|>", "Yes."),
        ("<|im_start|>assistant\nYes.<|im_end|>", "Yes."),
        ("ASSISTANT: Yes.", "Yes."),
        ("### Response:\nYes.", "Yes."),
        ("An analysis of the final: Yes.", "An analysis of the final: Yes."),
        ("I think <b>bold</b> is fine, and 2 < 3.", "I think <b>bold</b> is fine, and 2 < 3."),
    ],
)
def test_only_the_answer_is_left(text: str, answer: str) -> None:
    assert strip_reasoning(text).strip() == answer


@given(
    st.text(alphabet=st.characters(exclude_characters="<[◁:"), max_size=200).filter(
        lambda t: not t.strip().startswith(("analysis", "commentary"))
    )
)
def test_text_without_marks_is_left_as_it_is(text: str) -> None:
    assert strip_reasoning(text) == text


@given(st.text(max_size=80), st.text(alphabet="abc .,", min_size=1, max_size=80))
def test_what_is_thought_does_not_matter(thought: str, answer: str) -> None:
    marks = ("<", "[", "◁")
    if not any(mark in thought for mark in marks):
        assert strip_reasoning(f"<think>{thought}</think>{answer}") == answer


@pytest.mark.speed
@pytest.mark.parametrize(
    "text", ["<think>" * 30_000, "</think>" * 30_000, "<" * 100_000, "analysis " + "a" * 100_000, "<|channel|>" * 10_000]
)
def test_hostile_text_takes_no_time(text: str) -> None:
    started = time.perf_counter()
    strip_reasoning(text)
    assert time.perf_counter() - started < 5
