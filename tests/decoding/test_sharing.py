"""Answers of several policies, edits and seeds in one batch: each is what it would be alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.decoding import BEST, ByRank, asked

from safesteer_interp.decoding import answering as module
from safesteer_interp.decoding.answering import answer_asks, generate
from safesteer_interp.decoding.policies import PLAIN, Candidates, Guided, Opening
from safesteer_interp.decoding.sharing import Ask, Mixed, ways_of
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.tracer import At, Edit, Sampling

SAMPLED = Sampling(max_new_tokens=8, temperature=1.0)
FAMILIES = ("llama", *(pytest.param(family, marks=pytest.mark.slow) for family in ("llava", "qwen2_5_vl", "gemma3")))
"""As in `test_loop`, of which this is the simpler half."""


def moved(site: str, by: float) -> Edit:
    """Pushes the last prompt token and every answer token."""

    def push(h: torch.Tensor, at: At) -> torch.Tensor:
        return torch.where((at.last_prompt | (at.roles == int(Role.GENERATED)))[..., None], h + by * torch.sign(h), h)

    return Edit((Site.parse(site),), push)


def rising(by: float) -> Guided:
    """Takes the second candidate, from a prompt state that was moved."""

    def opening(states: torch.Tensor) -> Opening:
        guided = torch.arange(len(states)) % 2 == 0
        return Opening(states + by, guided, [{"moved": by} for _ in states])

    return Guided(ByRank(1), k=3, steps=4, choice=BEST, opening=opening)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(prompts read, answers) of every batch."""
    seen: list[tuple[int, int]] = []
    real = module.distinct

    def counted(requests: Any, apart: Any = None) -> Any:
        found = real(requests, apart)
        seen.append((len(found[0]), len(requests)))
        return found

    monkeypatch.setattr(module, "distinct", counted)
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_each_answer_is_what_it_would_be_alone(family: str, tiny: Callable[[str], Any], batches: list[tuple[int, int]]) -> None:
    mllm = tiny(family)
    requests = asked(mllm)
    late, early, stronger = moved("final_norm", 1.0), moved("resid_post.0", 0.5), moved("resid_post.1", 2.0)
    first, second = Guided(ByRank(1), k=3, steps=4, choice=BEST), Guided(ByRank(2), k=3, steps=4, choice=BEST)
    ways = [(PLAIN, ()), (PLAIN, (late,)), (first, ()), (second, ()), (first, (late,)), (PLAIN, (early,)), (PLAIN, (stronger, late))]
    asks = [Ask(r, seed, policy, edits) for policy, edits in ways for seed in (3, 4) for r in requests]
    alone = [generate(mllm, [a.request], a.policy, Sampling(8, 1.0, a.seed), edits=a.edits, batch_size=1, explain=True)[0] for a in asks]
    assert len({tuple(a.ids) for a in alone}) > len(asks) / 2, "the ways differ"
    batches.clear()
    together: dict[int, Any] = {}
    for places, found in answer_asks(mllm, asks, SAMPLED, batch_size=100, explain=True):
        together.update(zip(places, found, strict=True))
    assert [together[i].ids for i in range(len(asks))] == [a.ids for a in alone]
    assert [[s.choice for s in together[i].steps] for i in range(len(asks))] == [[s.choice for s in a.steps] for a in alone]
    n = len(requests)
    assert batches == [(n, 4 * n), (n, 6 * n), (2 * n, 4 * n)], "three kinds; early edits read every prompt for themselves, once per way"


def test_rows_of_several_openings_are_put_back_in_their_places(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    up, down = rising(2.0), rising(-2.0)
    asks = [Ask(r, 3, policy) for r in requests for policy in (up, down)]  # interleaved
    found = {i: d for places, part in answer_asks(mllm, asks, SAMPLED) for i, d in zip(places, part, strict=True)}
    for number, ask in enumerate(asks):
        assert found[number].verdict == {"moved": 2.0 if ask.policy is up else -2.0}
    mixed = Mixed([up, PLAIN], torch.tensor([0, 1, 0]))
    opening = mixed.begin(torch.zeros(3, 4))
    assert opening.guided.tolist() == [True, False, False] and opening.states[:, 0].tolist() == [2.0, 0.0, 2.0]
    assert (mixed.k, mixed.steps) == (3, 4)


def test_finished_rows_do_not_shift_the_choice() -> None:
    """Rows 0 and 3 have finished: the rows left belong to answers 1, 2 and 4."""
    mixed = Mixed([Guided(ByRank(1), 3, 4, BEST), Guided(ByRank(2), 3, 4, BEST), PLAIN], torch.tensor([0, 1, 0, 0, 2]))
    rows = torch.tensor([1, 2, 4])
    log_probs = torch.log_softmax(torch.tensor([[3.0, 2.0, 1.0]] * 3), -1)
    choice, _ = mixed.choose(Candidates(torch.arange(9).view(3, 3), log_probs, torch.zeros(3, 3, 4), 1, [[0]] * 3, rows), torch.zeros(3))
    assert choice.tolist() == [2, 1, 0]


def test_ways_are_told_apart_by_policy_and_edits(tiny: Callable[[str], Any]) -> None:
    request = asked(tiny("llama"))[0]
    edit = moved("final_norm", 1.0)
    ways, member = ways_of([Ask(request, 0), Ask(request, 1), Ask(request, 0, PLAIN, (edit,)), Ask(request, 0)])
    assert member.tolist() == [0, 0, 1, 0] and len(ways) == 2
