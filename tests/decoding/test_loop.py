"""Streams: rows that end are replaced by rows that wait, and each answer is what it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.decoding import BEST, ByRank, asked, ids

from safesteer_interp.decoding import answering as module
from safesteer_interp.decoding.answering import answer_asks, generate
from safesteer_interp.decoding.loop import Stream
from safesteer_interp.decoding.policies import PLAIN, Candidates, Guided
from safesteer_interp.decoding.prefix import advance, prefill
from safesteer_interp.decoding.prompt_cache import remembering_prompts
from safesteer_interp.decoding.sharing import Ask
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role, Site, SiteKind
from safesteer_interp.tracing.tracer import At, Edit, Sampling

SAMPLED = Sampling(max_new_tokens=14, temperature=1.0)
FOUR = ("llava", *(pytest.param(family, marks=pytest.mark.slow) for family in ("qwen2_5_vl", "gemma3", "llama")))
"""Half a minute in all: one with images every time, the others where the slow tests run."""


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sixth token ends an answer, so that answers end at all steps."""
    monkeypatch.setattr(module, "stop_ids", lambda _: frozenset(range(0, 500, 6)))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every plain step."""
    seen: list[int] = []
    real = Stream.plain_step

    def counted(self: Stream) -> Any:
        seen.append(len(self.rows))
        return real(self)

    monkeypatch.setattr(Stream, "plain_step", counted)
    return seen


def many(mllm: Any) -> list[Request]:
    """Six requests of quite different length."""
    return [replace(r, id=f"{r.id}/{n}", text=r.text + " please" * (9 * n)) for n in range(2) for r in asked(mllm)]


def edit(site: str, by: float) -> Edit:
    """Moves the last prompt token and every answer token, more at later steps."""

    def push(h: torch.Tensor, at: At) -> torch.Tensor:
        return torch.where((at.last_prompt | (at.roles == int(Role.GENERATED)))[..., None], h + by * (1 + at.step) * torch.sign(h), h)

    return Edit((Site.parse(site),), push)


def contrasted(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return first + 2 * (first - second)


def answered(mllm: Any, asks: list[Ask], size: int) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for places, answers in answer_asks(mllm, asks, SAMPLED, batch_size=size):
        assert not set(places) & set(found), "every answer is given once"
        found.update(zip(places, ids(answers), strict=True))
    return [found[i] for i in range(len(asks))]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("family", FOUR)
def test_each_answer_is_what_it_would_be_alone(family: str, tiny: Callable[[str], Any], steps: list[int]) -> None:
    """Plain, guided, edited before and at the final norm, contrasted, of two seeds: all in streams of four rows."""
    mllm = tiny(family)
    requests = many(mllm)
    guided = Guided(ByRank(1), k=3, steps=3, choice=BEST)
    late, early = edit("final_norm", 0.2), edit("resid_post.1", 0.1)
    ways = [(PLAIN, ()), (guided, ()), (PLAIN, (late,)), (guided, (late,)), (PLAIN, (early,)), (guided, (early, late))]
    asks = [Ask(r, 3, policy, edits) for policy, edits in ways for r in requests]
    asks += [Ask(r, 4, policy) for policy in (PLAIN, guided) for r in requests]
    brief = [replace(r, text="Briefly. " + r.text) for r in requests]
    asks += [
        Ask(r, 3, policy, (late,), beside=b, combine=contrasted) for policy in (PLAIN, guided) for r, b in zip(requests, brief, strict=True)
    ]
    alone = [answered(mllm, [ask], 1)[0] for ask in asks]
    lengths = {len(answer) for answer in alone}
    assert len(lengths) > 6 and len({tuple(a) for a in alone}) > len(asks) / 2, "answers end everywhere, and ways differ"
    steps.clear()
    assert answered(mllm, asks, 4) == alone
    plain = [min(len(a), SAMPLED.max_new_tokens) - ask.policy.steps for a, ask in zip(alone, asks, strict=True)]
    assert sum(steps) == sum(n for n in plain if n > 0), "no row is written that has ended"
    assert sum(n == 4 for n in steps) >= 0.7 * len(steps), "the stream stays full"
    with remembering_prompts(mllm):
        for _ in range(2 if family == "llava" else 0):  # what the first round wrote does not reach the prompts that were kept
            assert answered(mllm, asks, 5) == alone


def test_a_model_whose_cache_cannot_be_joined_is_answered_batch_by_batch(
    tiny: Callable[[str], Any], steps: list[int], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mllm = tiny("llava")
    asks = [Ask(r) for r in many(mllm)]
    together = answered(mllm, asks, 4)
    full, _ = steps.count(4), steps.clear()
    monkeypatch.setattr("safesteer_interp.decoding.loop.joinable", lambda cache: False)
    monkeypatch.setattr("safesteer_interp.decoding.prefix.joinable", lambda cache: False)
    assert answered(mllm, asks, 4) == together
    assert steps.count(4) < full


def test_text_and_plain_strings(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("qwen2_5_vl")
    text = asked(mllm)[0].text
    answer = generate(mllm, [text], PLAIN, SAMPLED)[0]
    assert answer.ids == generate(mllm, [replace(asked(mllm)[0], image=None)], PLAIN, SAMPLED)[0].ids
    assert answer.text == mllm.tokenizer.decode(answer.ids, skip_special_tokens=True).strip()
    assert repr(Guided(ByRank(1), k=3)) == "Guided(rank, k=3, steps=5, softmax(log p + 1 s))"


@dataclass(frozen=True)
class Seeing:
    """Prefers one rank, and keeps what it was shown."""

    site: Site
    seen: list[torch.Tensor]
    name: str = "seeing"

    def scores(self, candidates: Candidates) -> torch.Tensor:
        self.seen.append(candidates.seen(self.site))
        return ByRank(1).scores(candidates)


def separately(mllm: Any, inputs: dict[str, torch.Tensor], before: list[torch.Tensor], tokens: torch.Tensor, site: Site) -> torch.Tensor:
    """State [batch, d] at a site when the tokens are read after those before, by passes of their own."""
    from safesteer_interp.tracing.hooks import visiting

    kept: list[torch.Tensor] = []
    with torch.no_grad():
        prefix, _ = prefill(mllm.model, inputs)
        for earlier in before:
            advance(mllm.model, prefix, earlier)
        with visiting(mllm.model, mllm.layout, (site,), lambda _, h: kept.append(h)):
            advance(mllm.model, prefix, tokens)
    return kept[0][:, -1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("place", ["resid_post.1", "final_norm"])
def test_a_scorer_sees_the_candidates_at_its_own_site(family: str, place: str, tiny: Callable[[str], Any]) -> None:
    """The state at `resid_post.l` of every candidate is that of a separate forward, at every guided step."""
    mllm = tiny(family)
    site, requests = Site.parse(place), sorted(asked(mllm), key=lambda r: len(r.text))
    seeing = Seeing(site, [])
    answers = generate(mllm, requests, Guided(seeing, k=3, steps=3, choice=BEST), SAMPLED, explain=True, stop=False)
    inputs = mllm.encode(requests).inputs
    before: list[torch.Tensor] = []
    for step, seen in enumerate(seeing.seen):
        offered = torch.tensor([answer.steps[step].candidates for answer in answers])
        for k in range(3):
            expected = separately(mllm, inputs, before, offered[:, k], site)
            assert ((seen[:, k] - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < 1e-4
        before.append(torch.tensor([answer.ids[step] for answer in answers]))
    assert len(seeing.seen) == 3
    assert site.kind is SiteKind.FINAL_NORM or not torch.allclose(seen[:, 0], seen[:, 1])


def test_a_scorer_at_a_site_shares_a_batch_with_one_at_another(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    early, late = Seeing(Site.parse("resid_post.0"), []), Seeing(Site.parse("final_norm"), [])
    policies = [Guided(scorer, k=3, steps=2, choice=BEST) for scorer in (early, late)]
    together = answered(mllm, [Ask(r, 0, policy) for policy in policies for r in requests], 10)
    assert together[:3] == together[3:]
    shared = [seen.clone() for seen in early.seen]
    early.seen.clear()
    assert answered(mllm, [Ask(r, 0, policies[0]) for r in requests], 10) == together[:3]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(shared, early.seen, strict=True))


@pytest.mark.parametrize("contrast", [False, True], ids=["one reading", "two readings"])
def test_an_edit_is_told_its_step_and_position_while_candidates_are_scored(tiny: Callable[[str], Any], contrast: bool) -> None:
    """The K candidates of guided step s are all token s + 1 of the answer, in each reading behind that reading's own prompt."""
    mllm = tiny("llava")
    requests, seen = asked(mllm), list[tuple[int, int, int]]()

    def look(h: torch.Tensor, at: At) -> torch.Tensor:
        (position,) = set(at.positions[:, -1].tolist())  # the last token of the prompt, or every token that is written
        assert at.step == 0 or bool((at.positions == position).all() and (at.roles == int(Role.GENERATED)).all())
        seen.append((at.step, h.shape[1], position))
        return h

    looking = Edit((Site.parse("resid_post.1"),), look)
    guided = Guided(ByRank(1), k=3, steps=3, choice=BEST)
    beside = [replace(r, text="Briefly and kindly. " + r.text) for r in requests]
    more = [{"beside": b, "combine": contrasted} if contrast else {} for b in beside]
    asks = [Ask(r, 0, guided, (looking,), **own) for r, own in zip(requests, more, strict=True)]
    for _ in answer_asks(mllm, asks, Sampling(6, 1.0), batch_size=3, stop=False):
        pass
    widths = [mllm.encode(prompts).input_ids.shape[1] for prompts in (requests, beside)[: 1 + contrast]]
    assert len(set(widths)) == len(widths)
    expected = [(0, width, width - 1) for width in widths]
    for step, tokens in ((1, 3), (2, 3), (3, 3), (4, 1), (5, 1)):
        expected += [(step, tokens, width + step - 1) for width in widths]
    assert seen == expected
