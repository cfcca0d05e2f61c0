"""On the planted model the score is linear in the pixels, so that the worst bounded change has a closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safesteer_interp.datasets.planted import HARM_TINT, NOISE_TINT
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.interventions import record
from safesteer_interp.interventions.pixels import lower
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.planted import HARM_UNIT, NOISE, planted_requests, planted_truth
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site


@pytest.fixture(scope="module")
def picture() -> Request:
    return next(r for r in planted_requests(attacks=(Attack.SD,)) if r.harmful)


def harm(planted: MLLM) -> Any:
    along = planted_truth(planted).harm_direction
    return lambda states: (states @ along)[0]


@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.03])
def test_the_worst_change_is_that_of_the_linear_model_and_what_the_tints_say(planted: MLLM, picture: Request, epsilon: float) -> None:
    """Red less by epsilon and blue more by epsilon takes epsilon off a content patch's tint: epsilon / HARM_TINT of its evidence."""
    metric = harm(planted)
    clean = record(planted, picture)
    before = float(metric(clean.final))
    moved = lower(planted, picture, metric, epsilon=epsilon, steps=4)
    assert moved.score == pytest.approx(moved.linear, abs=0.02 * (before - moved.linear) + 1e-5)
    assert float(metric(moved.final)) == pytest.approx(moved.score, abs=1e-5)
    norm = float(clean.states[Site.parse("resid_post.5")][-1].norm()) / 64**0.5
    patches_of_content = 12 / 14
    by_green = 0.955 * NOISE / NOISE_TINT / 3  # the noise that the head mistakes for harm can be moved as well
    by_tints = epsilon * (1 / HARM_TINT + by_green) * HARM_UNIT * patches_of_content / norm
    assert before - moved.score == pytest.approx(by_tints, rel=0.2, abs=1e-5)


def test_more_room_never_hurts_and_nothing_leaves_the_range(planted: MLLM, picture: Request) -> None:
    scores = [lower(planted, picture, harm(planted), epsilon=e, steps=3).score for e in (0.0, 0.02, 0.1, 1.0)]
    assert scores == sorted(scores, reverse=True) and torch.isfinite(torch.tensor(scores)).all()


@pytest.mark.parametrize("epsilon", [0.02, 1.0])
def test_every_picture_that_is_tried_keeps_within_epsilon_and_within_the_range_of_pixels(
    planted: MLLM, picture: Request, epsilon: float
) -> None:
    """As the model is shown them, turned back into channels of 0 to 1. With an epsilon of 1 the ends of the range are what holds."""
    images, tried = planted.processor.image_processor, list[torch.Tensor]()
    mean, std = (torch.tensor(values)[:, None, None] for values in (images.image_mean, images.image_std))

    def look(module: Any, args: Any, kwargs: Any) -> None:
        tried.append(kwargs["pixel_values"].detach() * std + mean)

    handle = planted.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        lower(planted, picture, harm(planted), epsilon=epsilon, steps=4)
    finally:
        handle.remove()
    clean = planted.encode([picture]).inputs["pixel_values"] * std + mean
    assert len(tried) == 5 and torch.allclose(tried[0], clean, atol=1e-6)
    for pixels in tried:
        assert pixels.min() >= -1e-5 and pixels.max() <= 1 + 1e-5
        assert (pixels - clean).abs().max() <= epsilon + 1e-5
    if epsilon < 1:
        assert (tried[-1] - clean).abs().max() == pytest.approx(epsilon, abs=1e-5), "all of it is used"
    else:
        assert tried[-1].min() == pytest.approx(0, abs=1e-5) and tried[-1].max() == pytest.approx(1, abs=1e-5), "held at both ends"


def test_what_cannot_be_done_is_said(planted: MLLM, picture: Request) -> None:
    with pytest.raises(UsageError, match="epsilon of 0 or more"):
        lower(planted, picture, harm(planted), epsilon=-0.1)
    with pytest.raises(InputError, match="no picture"):
        lower(planted, Request(id="t", text="hello", harmful=False, attack=Attack.TEXT), harm(planted), epsilon=0.1)
