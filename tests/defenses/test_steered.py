"""steer: answers under one direction, at the site that is meant, and nothing at dose 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import safesteer_interp as si
from safesteer_interp.errors import UsageError
from safesteer_interp.models.planted import planted_requests, planted_truth
from safesteer_interp.requests import Attack, Request, Split, select
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.vectors.direction import Direction

GREEDY = si.Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def pictures() -> list[Request]:
    """Harmful pictures, which the planted model answers."""
    return select(planted_requests(40, attacks=(Attack.SD,)), attacks=[Attack.SD], split=Split.TEST, harmful=True)


def harm(planted: Any, site: str = "") -> Direction:
    truth = planted_truth(planted).harm_direction.double().numpy()
    return Direction.from_difference(4 * truth, "harm", origin=Origin(site=site), residual_norm=4.0)


def test_a_dose_along_harm_restores_the_refusal_and_dose_zero_changes_nothing(planted: Any, pictures: list[Request]) -> None:
    plain = si.generate(planted, pictures, sampling=GREEDY)
    assert [one.text for one in plain] == [planted.tokenizer.decode(one.ids, skip_special_tokens=True).strip() for one in plain]
    refusal = planted_truth(planted).first_refusal_token
    direction = harm(planted, "resid_post.4")
    none, more = (si.steer(planted, pictures, direction, dose, sampling=GREEDY) for dose in (0.0, 2.0))
    assert [r.ids for r in none] == [one.ids for one in plain] and [r.text for r in none] == [one.text for one in plain]
    refused = [np.mean([r.ids[0] == refusal for r in answers]) for answers in (none, more)]
    assert refused[1] > refused[0] + 0.3
    assert [r.request for r in more] == pictures


def test_a_direction_without_a_site_needs_one(planted: Any, pictures: list[Request]) -> None:
    nowhere = harm(planted)
    with pytest.raises(UsageError, match=r'"harm" does not know its site; make it with origin='):
        si.steer(planted, pictures[:1], nowhere, 1.0)
    somewhere = si.steer(planted, pictures[:2], nowhere, 2.0, at="resid_post.4", sampling=GREEDY)
    assert [r.ids for r in somewhere] == [
        r.ids for r in si.steer(planted, pictures[:2], harm(planted, "resid_post.4"), 2.0, sampling=GREEDY)
    ]
    with pytest.raises(UsageError, match="no site is called"):
        si.steer(planted, pictures[:1], nowhere, 1.0, at="resid.4")


def test_an_alignment_vector_acts_at_its_own_site_only(planted: Any, pictures: list[Request]) -> None:
    requests = planted_requests(20, attacks=(Attack.CB, Attack.SD))
    vector = si.alignment_vectors(si.collect(planted, requests, sites="final_norm", tracer="hooks", store=None, progress=False))[
        "final_norm"
    ]
    refusal = planted_truth(planted).first_refusal_token
    answers = [si.steer(planted, pictures, vector, dose, at="final_norm", sampling=GREEDY) for dose in (0, 1)]
    refused = [np.mean([r.ids[0] == refusal for r in each]) for each in answers]
    assert refused[1] > refused[0] + 0.3
    with pytest.raises(UsageError, match=r'"final_norm".*"resid_post\.2"'):
        si.steer(planted, pictures[:1], vector, 1.0, at="resid_post.2")
