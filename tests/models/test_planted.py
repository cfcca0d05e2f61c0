"""The planted model gives the answers that were planted, follows each of its switches, and is the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.models import load_model
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.planted import OPENERS, REFUSAL, build_planted, planted_requests, planted_truth
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Attack, Split

PAIRS = 40


@dataclass
class World:
    """One build with the states of the last prompt token, one row per request."""

    mllm: MLLM
    states: dict[str, Tensor]
    refused: np.ndarray
    in_top5: np.ndarray
    attack: np.ndarray
    harmful: np.ndarray
    train: np.ndarray

    def rows(self, attack: Attack, harmful: bool) -> np.ndarray:
        return (self.attack == str(attack)) & (self.harmful == harmful)

    def rate(self, attack: Attack, harmful: bool) -> float:
        return float(self.refused[self.rows(attack, harmful)].mean())

    def auroc(self, site: str, *attacks: Attack) -> float:
        """PCA to four components and logistic regression, fitted on the train pairs, scored on the others."""
        mine = np.isin(self.attack, [str(attack) for attack in attacks])
        states = self.states[site].numpy()
        probe = make_pipeline(PCA(4), LogisticRegression()).fit(states[mine & self.train], self.harmful[mine & self.train])
        held_out = mine & ~self.train
        return float(roc_auc_score(self.harmful[held_out], probe.decision_function(states[held_out])))

    def alignment(self, harmful: bool = True) -> Tensor:
        state = self.states["final_norm"]
        return state[self.rows(Attack.SD, harmful)].mean(0) - state[self.rows(Attack.CB, harmful)].mean(0)


def world(mllm: MLLM, pairs: int = PAIRS) -> World:
    requests = planted_requests(pairs)
    batch = mllm.encode(requests)
    states: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, args, output: states.__setitem__(name, output[:, -1].clone())

    handles = [layer.register_forward_hook(keep(str(i))) for i, layer in enumerate(mllm.layers)]
    handles.append(mllm.final_norm.register_forward_hook(keep("final_norm")))
    with torch.no_grad():
        logits = mllm.model(**batch.inputs, logits_to_keep=1).logits[:, -1]
    for handle in handles:
        handle.remove()
    sorry = planted_truth(mllm).first_refusal_token
    return World(
        mllm,
        states,
        (logits.argmax(-1) == sorry).numpy(),
        (logits.topk(5).indices == sorry).any(-1).numpy(),
        np.array([str(r.attack) for r in requests]),
        np.array([r.harmful for r in requests]),
        np.array([r.split is Split.FIT for r in requests]),
    )


@pytest.fixture(scope="module")
def as_planted(planted: MLLM) -> World:
    return world(planted)


def test_harm_is_at_chance_before_the_planted_layer_and_near_the_planted_auroc_after(as_planted: World) -> None:
    truth = planted_truth(as_planted.mllm)
    everything = tuple(Attack(name) for name in dict.fromkeys(as_planted.attack))
    for site in (str(i) for i in range(truth.layer)):
        assert 0.3 < as_planted.auroc(site, *everything) < 0.7
    for site in (*(str(i) for i in range(truth.layer, as_planted.mllm.n_layers)), "final_norm"):
        assert truth.auroc - 0.07 < as_planted.auroc(site, *everything) < 0.99


def test_the_harm_direction_separates_within_every_attack(as_planted: World) -> None:
    truth = planted_truth(as_planted.mllm)
    score = (as_planted.states["final_norm"] @ truth.harm_direction).numpy()
    for attack in (Attack.TEXT, Attack.CB, Attack.SD, Attack.TYPO, Attack.SD_TYPO):
        mine = as_planted.attack == str(attack)
        assert abs(roc_auc_score(as_planted.harmful[mine], score[mine]) - truth.auroc) < 0.08


def test_text_is_refused_and_pictures_are_not(as_planted: World) -> None:
    expected = planted_truth(as_planted.mllm).refusal_rate
    for attack, kind in ((Attack.TEXT, "text"), (Attack.CB, "text"), (Attack.SD, "image"), (Attack.SD_TYPO, "image")):
        for harmful in (True, False):
            rate = as_planted.rate(attack, harmful)
            assert abs(rate - expected[f"{kind} {'harmful' if harmful else 'harmless'}"]) < 0.16
    assert 0.6 < as_planted.rate(Attack.CB, True) < 1.0
    assert as_planted.rate(Attack.CB, True) - as_planted.rate(Attack.SD, True) > 0.5


def test_a_refusal_is_rarely_a_candidate_for_harmful_pictures(as_planted: World) -> None:
    """So re-ranking five candidates cannot help there by itself: the alignment vector must bring the word in first."""
    assert as_planted.in_top5[as_planted.rows(Attack.SD, True)].mean() < 0.4
    assert as_planted.in_top5[as_planted.rows(Attack.CB, True)].mean() > 0.8
    assert as_planted.in_top5[as_planted.rows(Attack.SD, False)].mean() < 0.1


@pytest.mark.parametrize("harmful", [True, False])
def test_alignment_vector_recovers_the_planted_gap(as_planted: World, harmful: bool) -> None:
    cosine = torch.cosine_similarity(as_planted.alignment(harmful), planted_truth(as_planted.mllm).gap_direction, dim=0)
    assert cosine >= 0.95


def test_only_the_shift_towards_text_restores_refusal(as_planted: World) -> None:
    vector = as_planted.alignment()
    state = as_planted.states["final_norm"]
    text_mean = state[as_planted.rows(Attack.CB, True)].mean(0)
    alpha = (state - text_mean).norm(dim=1, keepdim=True)
    random = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(0)), dim=0)
    sorry = planted_truth(as_planted.mllm).first_refusal_token

    def rate(edited: Tensor, attack: Attack, harmful: bool) -> float:
        with torch.no_grad():
            said = as_planted.mllm.lm_head(edited).argmax(-1)
        return float((said == sorry).numpy()[as_planted.rows(attack, harmful)].mean())

    unit = torch.nn.functional.normalize(vector, dim=0)
    for attack in (Attack.SD, Attack.TYPO, Attack.SD_TYPO):
        assert rate(state - alpha * unit, attack, True) > 0.75
        assert rate(state - alpha * unit, attack, False) < 0.35  # without the probe's gate; harmless CB level plus the longer step
        assert rate(state + alpha * vector, attack, True) < 0.05
        assert rate(state + alpha * unit, attack, True) < 0.05
        assert rate(state - alpha * random, attack, True) < 0.35


def test_answers_are_refusals_or_answers_and_nothing_else(as_planted: World) -> None:
    requests = planted_requests(4)
    batch = as_planted.mllm.encode(requests)
    out = as_planted.mllm.model.generate(**batch.inputs, max_new_tokens=12, do_sample=False)
    said = as_planted.mllm.tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
    answers = {f"{opener} here is your answer below" for opener in OPENERS}
    assert set(said) <= answers | {" ".join(REFUSAL)} and len(set(said)) == 2
    assert [is_refusal(text) for text in said] == as_planted.refused[: len(said)].tolist()


def scores_of_words(mllm: MLLM, fitted: World) -> dict[str, float]:
    """Mean harm coordinate, at `final_norm`, of a first answer word fed after the prompt of every harmful text request."""
    truth = planted_truth(mllm)
    requests = [r for r in planted_requests(10) if r.harmful and r.attack is Attack.TEXT]
    batch = mllm.encode(requests)
    scores = {}
    for word in (REFUSAL[0], OPENERS[0], OPENERS[-1]):
        token = torch.full((len(requests), 1), mllm.tokenizer.convert_tokens_to_ids(word))
        inputs = {
            "input_ids": torch.cat([batch.input_ids, token], 1),
            "attention_mask": torch.cat([batch.attention_mask, torch.ones_like(token)], 1),
        }
        kept: list[Tensor] = []
        handle = mllm.final_norm.register_forward_hook(lambda _, args, output, kept=kept: kept.append(output[:, -1].clone()))
        with torch.no_grad():
            mllm.model(**inputs)
        handle.remove()
        scores[word] = float((kept[0] @ truth.harm_direction).mean())
    return scores


def test_refusal_words_score_above_answering_words_and_the_switch_reverses_it(as_planted: World) -> None:
    score = scores_of_words(as_planted.mllm, as_planted)
    assert score[REFUSAL[0]] > max(score[OPENERS[0]], score[OPENERS[-1]]) + 0.5
    reversed_model = build_planted(token_scores=-1.0)
    score = scores_of_words(reversed_model, as_planted)
    assert score[REFUSAL[0]] < min(score[OPENERS[0]], score[OPENERS[-1]]) - 0.5


def test_without_harm_nothing_is_readable() -> None:
    flat = world(build_planted(harm=0.0), 20)
    assert 0.3 < flat.auroc("final_norm", *(Attack(name) for name in dict.fromkeys(flat.attack))) < 0.7
    assert abs(flat.rate(Attack.TEXT, True) - flat.rate(Attack.TEXT, False)) < 0.25


def test_without_gap_or_with_its_reverse_pictures_are_refused() -> None:
    closed = world(build_planted(gap=0.0), 20)
    assert closed.rate(Attack.SD, True) > 0.5
    assert closed.alignment().norm() < 0.4
    turned = world(build_planted(gap=-1.0), 20)
    assert turned.rate(Attack.SD, True) > 0.9
    assert torch.cosine_similarity(turned.alignment(), planted_truth(turned.mllm).gap_direction, dim=0) >= 0.95


def test_without_noise_the_answer_is_exact() -> None:
    exact = world(build_planted(noise=0.0), 20)
    assert exact.auroc("final_norm", Attack.TEXT, Attack.CB) == 1.0
    assert exact.rate(Attack.TEXT, True) == 1.0 and exact.rate(Attack.TEXT, False) == 0.0
    assert exact.rate(Attack.SD, True) == 0.0


def test_build_is_deterministic_and_seeds_differ() -> None:
    assert build_planted().fingerprint == build_planted().fingerprint == load_model("planted").fingerprint
    assert build_planted(seed=1).fingerprint != build_planted().fingerprint


def test_truth_is_for_planted_models_only(tiny: Callable[[str], MLLM]) -> None:
    with pytest.raises(UsageError, match="tiny:llava has no planted truth"):
        planted_truth(tiny("llava"))


def test_requests_are_pairs_with_every_form_and_a_split_by_pair() -> None:
    requests = planted_requests(40)
    assert len({r.id for r in requests}) == len(requests) == 400
    assert requests[:200] == planted_requests(20)
    by_pair: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        by_pair.setdefault(request.pair, []).append(i)
    for members in by_pair.values():
        pair = [requests[i] for i in members]
        assert len({(r.split, r.scenario) for r in pair}) == 1
        assert {(r.attack, r.harmful) for r in pair} == {
            (a, h) for a in (Attack.TEXT, Attack.CB, Attack.SD, Attack.TYPO, Attack.SD_TYPO) for h in (True, False)
        }
    shares = {split: sum(r.split is split for r in requests) / len(requests) for split in Split}
    assert shares == {Split.ALIGN: 0.0, Split.FIT: 0.5, Split.VALIDATION: 0.1, Split.TEST: 0.4}
    assert all((r.image is None) == (r.attack is Attack.TEXT) for r in requests)
    assert len({r.key() for r in requests if r.attack is Attack.SD}) == 80
