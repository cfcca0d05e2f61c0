"""Refusal openings are tokenized as this model's answers start, under its own template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.openings import opening_ids, refusal_openings, refusal_token_ids
from safesteer_interp.refusals import OPENINGS

SPACED = ("idefics3", "smolvlm")
"""Families whose prompt ends in "Assistant:" and whose tokenizers tell " I" from "I"."""
NO_TURNS = ("paligemma", "paligemma2")
"""Families whose template has no assistant turn."""


OTHERWISE = ("llava_onevision",)
"""Families whose template ends its prompt in another way than it begins an assistant turn: "assistant\\n" against "assistant \\n"."""


def alone(mllm: MLLM, text: str) -> tuple[int, ...]:
    return tuple(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(NO_TURNS) - set(OTHERWISE)))
def test_an_opening_is_how_the_template_writes_an_answer(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)

    def content(words: str) -> Any:
        return [{"type": "text", "text": words}] if mllm.takes_images else words

    turns = [{"role": "user", "content": content("What is it?")}]
    options = {"tokenize": True, "return_dict": False, "add_special_tokens": False, "chat_template": FAMILIES[family].layout.template}
    prompt = mllm.tokenizer.apply_chat_template(turns, add_generation_prompt=True, **options)
    for opening in OPENINGS:
        answered = [*turns, {"role": "assistant", "content": content(opening)}]
        whole = mllm.tokenizer.apply_chat_template(answered, **options)
        expected = (*prompt, *opening_ids(mllm, opening))
        assert tuple(whole[: len(expected)]) == expected


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(SPACED)))
def test_elsewhere_an_opening_is_its_text(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    assert refusal_openings(mllm) == {alone(mllm, opening) for opening in OPENINGS}
    assert refusal_token_ids(mllm) == tuple(sorted({alone(mllm, opening)[0] for opening in OPENINGS}))


@pytest.mark.parametrize("family", SPACED)
def test_an_answer_behind_a_colon_starts_with_a_space(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    assert opening_ids(mllm, "I cannot") == alone(mllm, " I cannot") != alone(mllm, "I cannot")
    assert not set(refusal_token_ids(mllm)) & {alone(mllm, opening)[0] for opening in OPENINGS}
    assert opening_ids(mllm, "") == ()


def test_the_embedded_model_keeps_its_ids() -> None:
    """Published numbers on mini were made with these."""
    from safesteer_interp.models import load_model

    mllm = load_model("mini")
    assert refusal_openings(mllm) == {alone(mllm, opening) for opening in OPENINGS}
    assert [mllm.tokenizer.decode([i]) for i in refusal_token_ids(mllm)] == ["I", "As", "Unfortunately", "Sorry"]


@pytest.mark.parametrize(("folder", "family", "space"), [("smolvlm-256m", "smolvlm", " "), ("qwen2.5-vl-7b", "qwen2_5_vl", "")])
def test_real_tokenizers(folder: str, family: str, space: str, tiny: Callable[[str], Any], root: Path) -> None:
    """SmolVLM's own vocabulary and template: the refusal tokens are " I" and its like, which answers do start with."""
    path = next((base / "shared/real" / folder for base in root.parents if (base / "shared/real" / folder).is_dir()), None)
    if path is None:
        pytest.skip(f"shared/real/{folder} is not beside the checkout")
    tokenizer = AutoTokenizer.from_pretrained(path)
    layout: Layout = FAMILIES[family].layout
    mllm = MLLM("real", tiny(family).model, tokenizer, layout, "")
    assert {mllm.tokenizer.decode([i]) for i in refusal_token_ids(mllm)} >= {f"{space}I", f"{space}As"}
    assert refusal_openings(mllm) == {alone(mllm, space + opening) for opening in OPENINGS}
