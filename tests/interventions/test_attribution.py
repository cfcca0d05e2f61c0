"""First-order effects: exact where the model is linear, the right component first, and the finite-difference slope on every family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tracing import NoiseImage

from safesteer_interp.errors import UsageError
from safesteer_interp.interventions import Head, Patch, record, replay
from safesteer_interp.interventions.attribution import attribute, components
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.head import logits
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.planted import build_planted, planted_requests, planted_truth
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site

Tiny = Callable[[str], MLLM]


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_the_slope_of_the_exact_patch(tiny: Tiny, family: str) -> None:
    """A small step towards the donor does what the gradient says."""
    mllm = tiny(family)
    image = {"image": NoiseImage(1), "attack": Attack.SD} if mllm.takes_images else {"attack": Attack.TEXT}
    receiver, donor = (record(mllm, Request(id=text, text=text, harmful=False, **image)) for text in ("name a bird", "name two big ships"))

    def metric(states: torch.Tensor) -> torch.Tensor:
        return logits(mllm, states)[0, 7]

    found = attribute(mllm, receiver, donor, metric, roles=("user", "last"))
    tiny_step = 1e-2
    for place, want in ((Head(1, 0), found.heads[1, 0]), (Site.parse("mlp_out.1"), found.mlps[1])):
        patch = Patch((place,), ("user", "last"), lambda h, d: h + tiny_step * (d - h))
        moved, before = replay(mllm, receiver, [patch], donor=donor)[0, 7], metric(receiver.final)
        assert abs(float(moved - before) / tiny_step - float(want)) < 0.05 * abs(float(want)) + 2e-2, (place, float(want))


def test_the_planted_head_comes_first_and_all_of_the_effect_is_its(planted: MLLM) -> None:
    truth = planted_truth(planted)
    requests = [r for r in planted_requests(attacks=(Attack.SD, Attack.CB)) if r.harmful]
    of = {r.attack: r for r in requests if r.pair == requests[0].pair}
    receiver, donor = record(planted, of[Attack.SD]), record(planted, of[Attack.CB])
    along = truth.harm_direction

    def metric(states: torch.Tensor) -> torch.Tensor:
        return (states @ along)[0]

    gap = float(metric(donor.final) - metric(receiver.final))
    for steps in (1, 5):
        found = attribute(planted, receiver, donor, metric, roles=("last",), steps=steps)
        place, effect = found.ranked()[0]
        assert place == Head(truth.layer, 0) and abs(effect / gap - 1) < 0.35
        assert abs(found.ranked()[1][1]) < 0.05 * gap
    assert len(components(planted)) == len(found.ranked()) == 6 * 5
    with pytest.raises(UsageError, match="at least one step"):
        attribute(planted, receiver, donor, metric, steps=0)


def test_bfloat16_names_the_same_component() -> None:
    mllm = build_planted()
    mllm.model.to(torch.bfloat16)
    truth = planted_truth(mllm)
    of = {r.attack: r for r in planted_requests(1, attacks=(Attack.SD, Attack.CB)) if r.harmful}
    receiver, donor = record(mllm, of[Attack.SD]), record(mllm, of[Attack.CB])
    found = attribute(mllm, receiver, donor, lambda h: (h.float() @ truth.harm_direction)[0], roles=("last",), steps=3)
    gap = float(((donor.final - receiver.final).float() @ truth.harm_direction)[0])
    place, effect = found.ranked()[0]
    assert place == Head(truth.layer, 0) and effect / gap == pytest.approx(1, abs=0.4) and found.heads.dtype == torch.float32
