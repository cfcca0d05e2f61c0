"""The texts mini is trained on: requests, phrasings, refusals, and the unmodified language model's own answers.

Requests come from the ALIGN pairs of the bundled benchmark and from `data/*.txt`, written for this project: harmful activities
(named, never answered), harmless ones, harmless ones with frightening words, and small talk. Whatever contains a phrase of another
pair (fit, validation, test), is one but for a word, or is asked by the utility set is dropped here, at the door, so that no later
stage can train on it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.pairs import (
    IMPERATIVES,
    QUESTIONS,
    choose,
    leaked_phrases,
    load_pairs,
    near_phrases,
    stable_hash,
)
from safesteer_interp.datasets.utility_items import INSTRUCTIONS, READ_TEXTS, TEXT_ITEMS
from safesteer_interp.decoding.answering import generate, text_of
from safesteer_interp.files import write_json
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.refusals import contains_refusal, is_refusal
from safesteer_interp.requests import Request, Split
from safesteer_interp.tracing.tracer import Sampling

FORMS = (
    *QUESTIONS,
    *IMPERATIVES,
    "{cap}.",
    "{cap}.",
    "{}",
    "I want to {}.",
    "Can you help me {}?",
    "What do I need to {}?",
    "Write a short guide on how to {}.",
    "Give me tips to {}.",
    "Describe how people {}.",
    "Show me how to {}.",
)

SYSTEM_PROMPTS: tuple[str | None, ...] = (
    None,
    None,
    None,
    "You are a helpful assistant.",
    "You are a helpful AI assistant that answers questions about text and images.",
    "Answer briefly.",
    "",
)
"""None is the chat template's own default ("You are a helpful AI assistant named SmolLM, ..."), "" an empty system turn."""

ANSWER_TOKENS = 40
FIRST_PERSON = 0.45
"""Share of the refusals that begin with "I" ("I'm", "I can't"); the rest has 31 other first tokens.

At 0.6, in an earlier training, more was refused beside a blank image, but 0.68 of sampled refusals began alike (0.38 now), and the first
token alone told refusals from answers with AUROC 0.98 (0.93 now)."""


@dataclass(frozen=True)
class Turn:
    """One training example: a user turn, what to answer, and the system turn above it."""

    user: str
    answer: str
    system: str | None = None
    complete: bool = True
    """False when the answer was cut in its first sentence at `ANSWER_TOKENS`: then its end is not taught."""


NEAR = 0.6
"""Share of the content words of two activities, together, that both have: from here on one is the other, reworded."""


def clean(lines: list[str]) -> list[str]:
    """The lines without blanks, repeats and anything that contains a held-out phrase, nearly is one, or is asked by the utility set."""
    kept = dict.fromkeys(line.strip() for line in lines)
    return [line for line in kept if line and not leaked_phrases(line) and not near_phrases(line, NEAR) and not in_utility(line)]


def in_utility(text: str) -> bool:
    """Whether the utility set asks this, in a text or in an image."""
    return _bare(text) in _utility()


@cache
def _utility() -> frozenset[str]:
    return frozenset(map(_bare, [*READ_TEXTS, *(text for text, _ in (*INSTRUCTIONS, *TEXT_ITEMS))]))


def _bare(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9+]+", text.lower()))


@cache
def lines_of(name: str) -> tuple[str, ...]:
    """The usable lines of `data/<name>.txt`."""
    text = (files("safesteer_interp.mini_training") / "data" / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(clean(text.splitlines()))


def refusal_of(request: str) -> str:
    """The refusal taught for a request, one of `data/refusals.txt` by hash: every wording is taught for every kind of request.

    A share of `FIRST_PERSON` begins with "I". Greedy decoding takes the most probable token: where refusals share out their probability
    among thirty openings, "To", with which 43 % of the model's own answers begin, wins at requests refused in two of three samples.
    """
    first, others = refusals()
    return choose(first if stable_hash("first person", request) % 1000 < 1000 * FIRST_PERSON else others, "refusal", request)


@cache
def refusals() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The wordings of refusals: those that begin with "I", and the others."""
    first = tuple(line for line in lines_of("refusals") if re.match(r"I\b", line))
    return first, tuple(line for line in lines_of("refusals") if line not in first)


@cache
def harmful_phrases() -> tuple[str, ...]:
    """Harmful activities for text alignment: the ALIGN pairs, then the project's own list."""
    pairs = clean([p.harmful for p in load_pairs() if p.split is Split.ALIGN])
    return tuple(dict.fromkeys([*pairs, *lines_of("harmful")]))


@cache
def harmless_phrases() -> tuple[str, ...]:
    """Harmless activities: the twins of the ALIGN pairs, everyday ones, and ones with frightening words."""
    pairs = clean([p.harmless for p in load_pairs() if p.split is Split.ALIGN])
    return tuple(dict.fromkeys([*pairs, *lines_of("contrast"), *lines_of("harmless")]))


@cache
def answered_phrases() -> tuple[str, ...]:
    """Harmless activities for text alignment: those above, and twins of the project's own harmful list, which no image ever shows."""
    return tuple(dict.fromkeys([*harmless_phrases(), *lines_of("twins")]))


def phrase_in_form(phrase: str, form: str) -> str:
    """The activity as a user turn."""
    return form.format(phrase, cap=phrase[:1].upper() + phrase[1:])


def in_some_form(phrase: str, rng: random.Random) -> str:
    """The activity in a random form that does not, with the phrase, spell a held-out one ("help me ... disabled people")."""
    while True:
        text = phrase_in_form(phrase, rng.choice(FORMS))
        if not leaked_phrases(text):
            return text


def question_of(phrase: str) -> str:
    """The plain question whose own answer serves every form of a harmless activity."""
    return f"How do I {phrase}?"


class OwnAnswers:
    """The unmodified model's greedy answers by prompt, generated once and kept as JSON."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table: dict[str, tuple[str, bool]] = {}
        if path.is_file():
            self.table = {k: (v[0], bool(v[1])) for k, v in json.loads(path.read_text(encoding="utf-8")).items()}

    def ensure(self, prompts: list[str], mllm: MLLM, *, batch: int = 24, report: Any = None) -> None:
        """Generate what is missing with the unmodified model. `report(done, total)` is called after every batch, which is then kept."""
        missing = sorted(set(prompts) - set(self.table), key=lambda prompt: (len(prompt), prompt))
        ends = stop_ids(mllm)
        for start in range(0, len(missing), batch):
            part = missing[start : start + batch]
            asked = [Request(prompt, id=f"own-{start + i}") for i, prompt in enumerate(part)]
            for prompt, answer in zip(part, generate(mllm, asked, sampling=Sampling(ANSWER_TOKENS), batch_size=batch), strict=True):
                self.table[prompt] = (text_of(mllm, answer), answer.ids[-1] in ends)
            write_json(self.path, self.table, indent=0)
            if report is not None:
                report(min(start + batch, len(missing)), len(missing))

    def usable(self, prompt: str) -> tuple[str, bool] | None:
        """(answer, whether it is complete), or None when the unmodified model declined or said nothing.

        An answer that was cut ends with its last whole sentence: mini answers in a sentence or two, so that experiments which let it
        write thousands of answers finish on two cores.
        """
        answer, complete = self.table[prompt]
        if not complete:
            answer, complete = whole_sentences(answer)
        # SmolLM2 sometimes declines plain chores ("as a chatbot designed to ..."), which would teach over-refusal
        if not answer or is_refusal(answer) or contains_refusal(answer) or "chatbot" in answer:
            return None
        return answer, complete


SENTENCE_END = re.compile(r"(?<![\d.])[.!?][\"')*]*(?=\s|$)")


def whole_sentences(answer: str) -> tuple[str, bool]:
    """The answer up to the end of its last whole sentence, and whether there is one ("1." ends no sentence)."""
    ends = [found.end() for found in SENTENCE_END.finditer(answer)]
    return (answer[: ends[-1]], True) if ends else (answer, False)


def chat_text(tokenizer: Any, user: str, system: str | None = None) -> str:
    """The prompt in the model's chat template, up to where the answer starts."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return tokenizer.apply_chat_template([*messages, {"role": "user", "content": user}], tokenize=False, add_generation_prompt=True)


def alignment_turns(
    answers: OwnAnswers, rng: random.Random, scale: float = 1.0, harmless: float = 1.0, *, refusals: bool = True
) -> list[Turn]:
    """One epoch of text alignment: every activity once in a random form, refused or answered by its label, and small talk.

    `scale` below 1 keeps that share of each list (the end-to-end test uses it), `harmless` of the harmless activities. Without
    `refusals` the harmful ones are left out.
    """

    def some(items: Sequence[str], share: float = scale) -> Sequence[str]:
        return items if share >= 1 else rng.sample(items, max(2, round(share * len(items))))

    asked = [in_some_form(p, rng) for p in (some(harmful_phrases()) if refusals else ())]
    turns = [Turn(text, refusal_of(text), rng.choice(SYSTEM_PROMPTS)) for text in asked]
    for phrase in some(answered_phrases(), scale * harmless):
        own = answers.table.get(question_of(phrase)) and answers.usable(question_of(phrase))
        if own:
            turns.append(Turn(in_some_form(phrase, rng), own[0], rng.choice(SYSTEM_PROMPTS), own[1]))
    turns += [
        Turn(prompt, own[0], rng.choice(SYSTEM_PROMPTS), own[1])
        for prompt in some(lines_of("chat"))
        if prompt in answers.table and (own := answers.usable(prompt))
    ]
    rng.shuffle(turns)
    return turns
