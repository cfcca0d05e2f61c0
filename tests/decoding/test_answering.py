"""The decoding loop: equals transformers where it should, is guided where it should, and no batch changes anyone's sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from support.decoding import BEST, ByRank, asked, ids

from safesteer_interp.decoding.answering import generate
from safesteer_interp.decoding.choice import PAPER, Choice
from safesteer_interp.decoding.custom_generate import guided_generate
from safesteer_interp.decoding.policies import PLAIN, Candidates, Guided, Opening, RandomScorer, RefusalTokens
from safesteer_interp.errors import UsageError
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.openings import refusal_openings
from safesteer_interp.probes.decoding_probe import DecodingProbe
from safesteer_interp.refusals import ALL_OPENINGS
from safesteer_interp.requests import Request
from safesteer_interp.sites import Site
from safesteer_interp.tracing.sampling import draw, uniforms
from safesteer_interp.tracing.tracer import At, Edit, Sampling

GREEDY = Sampling(max_new_tokens=8, temperature=0.0)
SAMPLED = Sampling(max_new_tokens=8, temperature=1.0, seed=3)


@dataclass(frozen=True)
class ByProbability:
    """Scores candidates by the model's own probability: guiding by it changes nothing."""

    name: str = "probability"

    def scores(self, candidates: Candidates) -> torch.Tensor:
        return candidates.log_probs


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_greedy_equals_transformers(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    requests = asked(mllm)
    inputs = mllm.encode(requests).inputs
    own = mllm.model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=-1)[:, inputs["input_ids"].shape[1] :]
    assert ids(generate(mllm, requests, PLAIN, GREEDY, stop=False)) == own.tolist()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_guiding_by_probability_changes_nothing(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    guided = Guided(ByProbability(), k=5, steps=4, choice=BEST)
    assert ids(generate(mllm, asked(mllm), guided, GREEDY)) == ids(generate(mllm, asked(mllm), PLAIN, GREEDY))


def test_a_sample_does_not_depend_on_its_batch(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    requests = [replace(r, id=f"{r.id}/{i}", text=f"{r.text} {i}") for i in range(3) for r in asked(mllm)]
    for policy in (PLAIN, Guided(ByProbability(), k=4, steps=3)):
        together = ids(generate(mllm, requests, policy, SAMPLED, batch_size=9))
        assert together == ids(generate(mllm, requests, policy, SAMPLED, batch_size=2))
        assert together == [ids(generate(mllm, [r], policy, SAMPLED))[0] for r in requests]
        assert together != ids(generate(mllm, requests, policy, replace(SAMPLED, seed=4), batch_size=9))


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(20_000, -1)
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for temperature in (1.0, 0.5):
        found = torch.bincount(draw(logits, uniform, temperature), minlength=4) / 20_000
        assert torch.allclose(found, torch.softmax(logits[0] / temperature, -1), atol=0.015)
    assert draw(logits, uniform, 0.0).unique().tolist() == [3]
    edge = torch.tensor([[0.0, -torch.inf]])
    assert draw(edge, torch.tensor([1 - 1e-12], dtype=torch.float64), 1.0).tolist() == [0]


def test_draws_from_a_large_vocabulary_invert_its_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(300, 50_001, generator=generator)
    logits[:, 1000:30_000] = -torch.inf  # whole blocks without a chance
    uniform = torch.rand(300, dtype=torch.float64, generator=generator)
    exact = torch.softmax(logits.double(), -1).cumsum(-1)
    found = draw(logits, uniform, 1.0)
    above, below = exact.gather(1, found[:, None]).squeeze(1), exact.gather(1, (found - 1).clamp_min(0)[:, None]).squeeze(1)
    assert (uniform <= above + 1e-6).all() and (uniform >= torch.where(found > 0, below, 0.0) - 1e-6).all()
    assert torch.isfinite(logits.gather(1, found[:, None])).all()
    assert (found == torch.searchsorted(exact, uniform[:, None], right=True).squeeze(1)).float().mean() > 0.99


def test_random_numbers_belong_to_the_request(tiny: Callable[[str], Any]) -> None:
    first, second, third = asked(tiny("llama"))
    one, two, three = (r.key() for r in (first, second, third))
    assert torch.equal(uniforms([one, two], [0, 0], 5)[1], uniforms([three, two], [1, 0], 5)[1])
    assert not torch.equal(uniforms([one], [0], 5), uniforms([one], [1], 5))


def test_finished_rows_leave_the_batch_and_the_others_go_on(tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    free = generate(mllm, requests, PLAIN, SAMPLED, stop=False)
    assert all(len(answer.ids) == 8 for answer in free)
    end = free[1].ids[2]
    monkeypatch.setattr("safesteer_interp.decoding.answering.stop_ids", lambda _: frozenset({end}))
    for answer, whole in zip(generate(mllm, requests, PLAIN, SAMPLED), free, strict=True):
        cut = whole.ids.index(end) + 1 if end in whole.ids else 8
        assert answer.ids == whole.ids[:cut]


def test_the_preferred_candidate_is_taken_and_recorded(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("qwen3_vl")
    answers = generate(mllm, asked(mllm), Guided(ByRank(2), k=4, steps=3, choice=BEST), GREEDY, explain=True, stop=False)
    for answer in answers:
        assert [s.step for s in answer.steps] == [0, 1, 2]
        for record in answer.steps:
            assert record.choice == 2 and answer.ids[record.step] == record.candidates[2]
            assert record.scores == (0.0, 0.0, 1.0, 0.0)
            assert list(record.probabilities) == sorted(record.probabilities, reverse=True)
            assert record.plain == record.candidates[0], "greedy sampling would have taken the most probable token"


def test_the_answer_after_guidance_is_that_of_its_own_tokens(tiny: Callable[[str], Any]) -> None:
    """The kept cache entry is the chosen token's: transformers, given prompt and guided tokens, goes on the same way."""
    mllm = tiny("llava")
    requests = asked(mllm)[:1]
    answer = generate(mllm, requests, Guided(ByRank(3), k=4, steps=3, choice=BEST), GREEDY, stop=False)[0]
    inputs = dict(mllm.encode(requests).inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer.ids[:3]])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs.pop("position_ids", None)
    own = mllm.model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=-1)[0, inputs["input_ids"].shape[1] :]
    assert answer.ids[3:] == own.tolist()


def test_rows_that_are_not_guided_are_sampled_plainly(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")

    def second_only(states: torch.Tensor) -> Opening:
        return Opening(states, torch.tensor([False, True, False]), [{"row": float(i)} for i in range(3)])

    requests = sorted(asked(mllm), key=lambda r: len(r.text))
    plain = generate(mllm, requests, PLAIN, SAMPLED, stop=False)
    mixed = generate(mllm, requests, Guided(ByRank(3), k=4, steps=4, opening=second_only), SAMPLED, stop=False, explain=True)
    assert [ids(mixed)[i] for i in (0, 2)] == [ids(plain)[i] for i in (0, 2)]
    assert mixed[1].ids != plain[1].ids
    assert [len(answer.steps) for answer in mixed] == [0, 4, 0]
    assert [answer.verdict["row"] for answer in mixed] == [0.0, 1.0, 2.0]


def test_an_edited_opening_state_changes_the_first_token_alone(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    requests = asked(mllm)
    target = 305
    push = mllm.lm_head.weight[target].detach()

    def push_up(states: torch.Tensor) -> Opening:
        return Opening(states + 50 * push, torch.zeros(len(states), dtype=torch.bool), [{}] * len(states))

    answers = generate(mllm, requests, Guided(ByProbability(), k=2, steps=1, opening=push_up), GREEDY, stop=False)
    assert [a.ids[0] for a in answers] == [target] * 3


def shift(vector: torch.Tensor, seen: list[tuple[int, int]] | None = None) -> Callable[[torch.Tensor, At], torch.Tensor]:
    def function(h: torch.Tensor, at: At) -> torch.Tensor:
        if seen is not None:
            seen.append((at.step, int(at.positions.max())))
        return h + vector

    return function


def test_edits_act_at_every_step_and_dose_zero_is_vanilla(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("gemma3")
    requests = asked(mllm)
    site = Site.parse("resid_post.1")
    vector = torch.randn(mllm.width, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, int]] = []
    for policy in (PLAIN, Guided(ByProbability(), k=3, steps=2, choice=BEST)):
        vanilla = ids(generate(mllm, requests, policy, GREEDY, stop=False))
        none = ids(generate(mllm, requests, policy, GREEDY, stop=False, edits=[Edit((site,), shift(0 * vector, seen))]))
        some = ids(generate(mllm, requests, policy, GREEDY, stop=False, edits=[Edit((site,), shift(20 * vector))]))
        assert none == vanilla and some != vanilla
    length = mllm.encode(requests).input_ids.shape[1]
    assert seen[:8] == [(step, length - 1 + step) for step in range(8)]


def test_an_edit_of_guided_steps_equals_an_edit_of_plain_ones(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llava")
    site = Site.parse("resid_post.2")
    vector = 3 * torch.randn(mllm.width, generator=torch.Generator().manual_seed(1))
    edits = [Edit((site,), shift(vector))]
    guided = Guided(ByProbability(), k=4, steps=5, choice=BEST)
    assert ids(generate(mllm, asked(mllm), guided, GREEDY, edits=edits)) == ids(generate(mllm, asked(mllm), PLAIN, GREEDY, edits=edits))


def candidates(k: int = 4, d: int = 6) -> Candidates:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.log_softmax(torch.randn(3, k, generator=generator), -1).sort(descending=True).values
    return Candidates(torch.arange(3 * k).view(3, k), log_probs, torch.randn(3, k, d, generator=generator), 0, [[], [], []])


def test_the_choice_goes_from_the_model_to_the_score_and_the_paper_is_one_setting() -> None:
    offered = candidates()
    uniform = torch.rand(3, dtype=torch.float64)

    def chosen(choice: Choice, temperature: float = 1.0) -> list[int]:
        drawn, _ = Guided(ByRank(1), k=4, steps=1, choice=choice).choose(replace(offered, temperature=temperature), uniform)
        return drawn.tolist()

    scores = ByRank(1).scores(offered)
    assert chosen(PAPER) == draw(scores, uniform, 1.0).tolist(), "softmax(s), eq. 6"
    assert chosen(Choice(beta=0.0)) == draw(offered.log_probs, uniform, 1.0).tolist(), "top-K sampling"
    assert chosen(Choice(beta=math.inf)) == chosen(Choice(beta=1e6)) == chosen(BEST) == [1, 1, 1]
    assert chosen(Choice(beta=0.0), temperature=0.0) == [0, 0, 0], "a greedy answer is greedy while it is guided"
    mixed = Choice(beta=3.0, spread=2.0).logits(offered.log_probs, scores)
    torch.testing.assert_close(mixed, offered.log_probs + 1.5 * scores)
    tied = Choice(beta=math.inf).logits(offered.log_probs, torch.zeros(3, 4))
    torch.testing.assert_close(tied, offered.log_probs), "among equal scores the model decides"
    for wrong, sentence in (({"beta": -1.0}, "`beta`"), ({"beta": math.nan}, "`beta`"), ({"spread": 0.0}, "spread")):
        with pytest.raises(UsageError, match=sentence):
            Choice(**wrong)


def test_random_scores_keep_the_probes_sharpness_and_lose_its_meaning() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    states = rng.normal(size=(40, 6)) + 3 * labels[:, None] * np.eye(6)[0]
    probe = DecodingProbe(n_components=2).fit(states, labels)
    offered = candidates()
    real = probe.score_tensor(offered.states, 1)
    found = [RandomScorer(probe, seed).scores(offered) for seed in range(2)]
    for scores in found:
        assert torch.allclose(scores.mean(-1), real.mean(-1), atol=1e-4) and torch.allclose(scores.std(-1), real.std(-1), rtol=1e-3)
    assert not torch.allclose(found[0], found[1])
    one = replace(offered, ids=offered.ids[:, :1], log_probs=offered.log_probs[:, :1], states=offered.states[:, :1])
    assert torch.isfinite(RandomScorer(probe).scores(one)).all()


def test_refusal_tokens_prefer_what_continues_a_refusal() -> None:
    scorer = RefusalTokens(frozenset({(7, 8), (7, 9, 2)}))
    offered = replace(candidates(3), ids=torch.tensor([[1, 7, 2], [8, 1, 9], [5, 6, 4]]), emitted=[[], [7], [7, 8]])
    assert scorer.scores(offered).tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0]]
    only, _ = Guided(scorer, k=3, steps=1, choice=BEST).choose(replace(offered, temperature=0.0), torch.zeros(3, dtype=torch.float64))
    assert only.tolist() == [1, 0, 0], "the likeliest of those on an opening; the likeliest of all where none is"


def test_refusal_tokens_are_those_of_the_models_answers(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("smolvlm")
    assert RefusalTokens.of(mllm).openings == refusal_openings(mllm, ALL_OPENINGS) > refusal_openings(mllm)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Guided(ByProbability(), k=0), "K is 0"),
        (lambda: Guided(ByProbability(), k=1001), "K is 1001, but at most 1000 candidates are scored a step"),
        (lambda: Guided(ByProbability(), steps=-1), "steps is -1"),
    ],
)
def test_impossible_budgets_are_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make()


def test_more_guided_steps_than_tokens_are_refused(tiny: Callable[[str], Any]) -> None:
    mllm = tiny("llama")
    with pytest.raises(UsageError, match="steps is 9 but at most 8 tokens"):
        generate(mllm, asked(mllm), Guided(ByProbability(), steps=9), GREEDY)
    with pytest.raises(UsageError, match=r'K is 900, but "tiny:llama" has \d{3} tokens to choose from'):
        generate(mllm, asked(mllm), Guided(ByProbability(), k=900), GREEDY)
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        generate(mllm, asked(mllm), PLAIN, Sampling())
    with pytest.raises(UsageError, match="batch_size is 0"):
        generate(mllm, asked(mllm), PLAIN, GREEDY, batch_size=0)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "llama"])
def test_custom_generate_guides_a_plain_transformers_model(family: str, tiny: Callable[[str], Any]) -> None:
    mllm = tiny(family)
    requests: list[Request] = asked(mllm)
    inputs = mllm.encode(requests).inputs
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    plain = mllm.model.generate(**inputs, **options)
    null = partial(guided_generate, Guided(ByProbability(), k=5, steps=4, choice=BEST))
    assert torch.equal(mllm.model.generate(**inputs, **options, custom_generate=null), plain)
    assert torch.equal(mllm.model.generate(**inputs, **options, use_cache=False, custom_generate=null), plain)
    ranked = Guided(ByRank(2), k=4, steps=3, choice=BEST)
    found = mllm.model.generate(**inputs, **options, custom_generate=partial(guided_generate, ranked))
    ours = generate(mllm, requests, ranked, GREEDY, stop=False)
    assert found[:, inputs["input_ids"].shape[1] :].tolist() == ids(ours)
    with pytest.raises(UsageError, match="num_beams is 2"):
        mllm.model.generate(**inputs, **options, num_beams=2, custom_generate=null)
