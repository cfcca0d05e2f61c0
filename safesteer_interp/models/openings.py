"""How an answer starts under a model's own template: the token ids of refusal openings, as this model would write them.

A prompt that ends in "Assistant:" (SmolVLM, Idefics3, LLaVA) is answered with a space first, one that ends in a line break (ChatML,
Gemma) is not, and " I" and "I" are different tokens in most vocabularies. So an opening is tokenized as the continuation of a
rendered prompt, after whatever blank the template writes before an assistant's turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.refusals import OPENINGS

_ANSWER = "\ue000answer\ue001"  # private-use characters: no template contains them


def opening_ids(mllm: MLLM, text: str) -> tuple[int, ...]:
    """Ids of the tokens of an answer that starts with `text`; empty for an empty text."""
    return _continuations(mllm, [text])[0]


def refusal_openings(mllm: MLLM, openings: Sequence[str] = OPENINGS) -> frozenset[tuple[int, ...]]:
    """The token sequences that the refusal openings are in answers of this model."""
    return frozenset(ids for ids in _continuations(mllm, openings) if ids)


def refusal_token_ids(mllm: MLLM, openings: Sequence[str] = OPENINGS) -> tuple[int, ...]:
    """Ids of the tokens a refusal may start with, sorted. As in arXiv 2406.11717 a pronoun counts ("I"), though it also starts answers."""
    return tuple(sorted({ids[0] for ids in refusal_openings(mllm, openings)}))


def _continuations(mllm: MLLM, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Ids of each text behind a prompt, without those of the prompt."""
    prompt = _rendered(mllm)
    lead = _lead(mllm, prompt)
    before, after = mllm.layout.around_text(mllm.tokenizer) if mllm.layout.around_text else ("", "")
    prompt = before + prompt + after
    given = _tokens(mllm, prompt)
    found = []
    for text in texts:
        ids = _tokens(mllm, prompt + lead + text)
        # A tokenizer that joins the prompt's end with the answer's first letters cannot say where the answer starts: ask it for the text.
        found.append(tuple(ids[len(given) :] if ids[: len(given)] == given else _tokens(mllm, lead + text)) if text else ())
    return found


def _lead(mllm: MLLM, prompt: str) -> str:
    """The blanks that the template writes between the end of a prompt and the words of an assistant's turn."""
    try:
        whole = _rendered(mllm, answer=_ANSWER)
    except (TemplateError, TypeError):  # a template that knows user turns only
        return ""
    if not whole.startswith(prompt) or _ANSWER not in whole:
        return ""
    between = whole[len(prompt) : whole.index(_ANSWER)]
    return between if not between.strip(" ") else ""


def _rendered(mllm: MLLM, answer: str | None = None) -> str:
    """One user turn as the template writes it, ready for the answer, or with it."""

    def content(words: str) -> Any:
        return [{"type": "text", "text": words}] if mllm.encoder.frame(False).parts else words

    template = mllm.encoder.template
    turns = [{"role": "user", "content": content("Hello.")}]
    if answer is not None:
        turns.append({"role": "assistant", "content": content(answer)})
    return str(
        mllm.tokenizer.apply_chat_template(
            turns, chat_template=template.source, tokenize=False, add_generation_prompt=answer is None, **template.options
        )
    )


def _tokens(mllm: MLLM, text: str) -> list[int]:
    return list(mllm.tokenizer(text, add_special_tokens=False)["input_ids"])
