"""Image tokens lie where their patches are, and the planted harm is found in the patches that carry it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.tracing import NoiseImage

from safesteer_interp.errors import InputError
from safesteer_interp.interventions import record
from safesteer_interp.interventions.image_tokens import (
    differing_pixels,
    image_states,
    lens,
    pushes,
    share_of_cells,
    token_gradients,
    token_grid,
)
from safesteer_interp.models.head import logits
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.planted import planted_requests, planted_truth
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site


def of_one_pair(planted: MLLM) -> dict[tuple[Attack, bool], Request]:
    requests = planted_requests(attacks=(Attack.SD, Attack.CB, Attack.TYPO))
    return {(r.attack, r.harmful): r for r in requests if r.pair == requests[0].pair}


def test_shares_of_cells_read_line_by_line() -> None:
    where = np.zeros((4, 6), dtype=bool)
    where[:2, 3:6] = True
    where[2, 0] = True
    assert share_of_cells(where, (2, 2)).tolist() == [0.0, 1.0, pytest.approx(1 / 6), 0.0]


@pytest.mark.parametrize("attack", [Attack.SD, Attack.TYPO])
def test_the_planted_harm_is_pushed_by_the_patches_that_carry_it_and_by_no_other(planted: MLLM, attack: Attack) -> None:
    of = of_one_pair(planted)
    harmful, twin, blank = (record(planted, of[key]) for key in ((attack, True), (attack, False), (Attack.CB, True)))
    grid = token_grid(planted, harmful)
    assert grid == (4, 4)
    carries = share_of_cells(differing_pixels(harmful, twin), grid) > 0
    assert 0 < carries.sum() < 16
    truth = planted_truth(planted)
    along = truth.harm_direction

    def metric(states: torch.Tensor) -> torch.Tensor:
        return (states @ along)[0]

    (gradients,) = token_gradients(planted, harmful, [metric], (0, truth.layer, truth.layer + 1))
    for layer in (0, truth.layer):
        found = pushes(harmful, blank, gradients[layer], layer).abs().numpy()
        assert found[carries].min() > 20 * found[~carries].max()
    after = pushes(harmful, blank, gradients[truth.layer + 1], truth.layer + 1)
    assert after.abs().max() < 1e-6, "what layer 3 has read is read by no later layer"


def test_two_metrics_are_two_gradients_and_the_lens_is_the_head(planted: MLLM) -> None:
    picture = record(planted, of_one_pair(planted)[Attack.SD, True])
    token = planted_truth(planted).first_refusal_token
    both = token_gradients(planted, picture, [lambda h: h.sum(), lambda h: logits(planted, h)[0, token]], (2,))
    alone = token_gradients(planted, picture, [lambda h: logits(planted, h)[0, token]], (2,))
    assert torch.equal(both[1][2], alone[0][2]) and not torch.equal(both[0][2], both[1][2])
    states = image_states(picture, Site.parse("resid_post.5"))
    found = lens(planted, states)
    assert states.shape == (16, 64) and found.shape == (16, len(planted.tokenizer))
    norm: Any = planted.final_norm
    head: Any = planted.lm_head.weight
    by_hand = states / (states.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight @ head.T
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, states @ head.T, atol=0.1), "the norm changes something"
    last = lens(planted, picture.states[Site.parse("resid_post.5")][-1:])
    with torch.no_grad():
        given = planted.model(**planted.encode([picture.request]).inputs).logits[:, -1].float()
    torch.testing.assert_close(last, given, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3", "paligemma"])
def test_families_that_encode_a_picture_as_a_whole_have_a_grid(tiny: Callable[[str], MLLM], family: str) -> None:
    mllm = tiny(family)
    one = record(mllm, Request(id="a", text="what is this", harmful=False, attack=Attack.SD, image=NoiseImage(1)))
    rows, columns = token_grid(mllm, one)
    (gradients,) = token_gradients(mllm, one, [lambda h: h.sum()], (0, 1))
    assert len(image_states(one, Site.parse("embed"))) == rows * columns
    assert gradients[1].shape == (one.length, mllm.width) and gradients[1].abs().sum() > 0


def test_pictures_of_other_sizes_are_refused(planted: MLLM) -> None:
    of = of_one_pair(planted)
    picture = record(planted, of[Attack.SD, True])
    words = record(planted, Request(id="w", text="hello", harmful=False, attack=Attack.TEXT))
    with pytest.raises(InputError, match="has no picture"):
        differing_pixels(words, picture)
    with pytest.raises(InputError, match="image tokens"):
        pushes(picture, words, torch.zeros(picture.length, 64), 1)
    with pytest.raises(InputError, match="form no grid"):
        token_grid(planted, words)
