"""A prompt longer than the model's context is named with both lengths, once, in Python and on the command line; others are not."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest

from safesteer_interp.errors import SafeSteerWarning
from safesteer_interp.models.context_length import context_length
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request

Tiny = Callable[[str], MLLM]


def asked(words: int, name: str = "very-long") -> Request:
    return Request(id=name, text="bread " * words, harmful=False, attack=Attack.NONE)


@pytest.mark.parametrize("family", ["llama", "llava"])
def test_a_prompt_beyond_the_context_is_named_with_both_lengths(tiny: Tiny, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny(family)
    monkeypatch.setattr(mllm.model.config.get_text_config(), "max_position_embeddings", 60)
    assert context_length(mllm.model) == 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mllm.encode([asked(3)]).input_ids.shape[1] < 60
    with pytest.warns(SafeSteerWarning) as caught:
        batch = mllm.encode([asked(3, "short"), asked(80)])
    assert len(caught) == 1 and f'"very-long" has {batch.input_ids.shape[1]} tokens, more than the 60 of' in str(caught[0].message)


def test_the_command_line_says_it_in_one_sentence(safesteer: Callable[..., tuple[int, str, str]], fresh_cache: object) -> None:
    code, _, err = safesteer(
        "chat", "--model", "tiny:llama", "--defense", "none", "--max-new-tokens", "1", "--prompt", "How do I bake bread? " * 700
    )
    assert code == 0
    (line,) = [line for line in err.splitlines() if "context" in line]
    assert line.startswith('safesteer: request "chat-0" has 8,') and "more than the 2,048 of tiny:llama's context" in line
