"""How far a picture, changed by no more than epsilon per channel, can move a score of the model's state: a bounded test of detectors.

The change is found by projected gradient steps on the pixels (arXiv 1706.06083) and judged by the score alone: nothing is generated. It
asks how much of a probe's detection survives somebody who knows the probe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.interventions.attribution import Metric
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.prefix import prompt_inputs, rope_state


@dataclass
class Moved:
    """What a bounded change of the pixels achieved."""

    final: Float[Tensor, "1 d"]
    """The last prompt token's state after the final norm, of the changed picture."""
    score: float
    """The metric of that state: the lowest that was found."""
    linear: float
    """The metric before, less epsilon times the sum of absolute gradients: the lowest value if the model were linear in the pixels and no
    pixel were at an end of its range."""


def lower(mllm: MLLM, request: Request, metric: Metric, *, epsilon: float, steps: int = 8) -> Moved:
    """The lowest metric found for a picture whose channels (0 to 1) change by at most `epsilon` and stay in their range.

    `metric` maps the last token's final state [1, d] to a number, differentiable. Steps of signs of the gradient, 2.5 epsilon / steps long,
    projected; the best of all steps counts, the unchanged picture among them. Cost: `steps` + 1 forward and `steps` backward passes.
    Raises UsageError for a negative epsilon or no step, InputError for a request without a picture.
    """
    if epsilon < 0 or steps < 1:
        raise UsageError(f"a bounded change needs an epsilon of 0 or more and at least one step, got {epsilon} and {steps}.")
    batch = mllm.encode([request]).to(mllm.device)
    if "pixel_values" not in batch.inputs:
        raise InputError(f'request "{request.id}" has no picture whose pixels could change.')
    clean = batch.inputs["pixel_values"].detach()
    mean, std = _scale(mllm, clean)
    low, high = (torch.maximum(clean - epsilon / std, (0 - mean) / std), torch.minimum(clean + epsilon / std, (1 - mean) / std))
    with mllm.lock, rope_state(mllm.model):
        run = _runner(mllm, batch.inputs)
        pixels, best, linear = clean.clone(), None, 0.0
        for step in range(steps + 1):
            with torch.enable_grad():
                leaf = pixels.detach().requires_grad_()
                final = run(leaf)
                value = metric(final)
                gradient = torch.autograd.grad(value, leaf)[0] if step < steps else torch.zeros_like(leaf)
            if step == 0:
                linear = float(value.detach()) - epsilon * float((gradient.float() / std).abs().sum())
            if best is None or float(value.detach()) < best.score:
                best = Moved(final.detach(), float(value.detach()), linear)
            moved = pixels - 2.5 * epsilon / steps / std * gradient.sign()
            pixels = torch.minimum(torch.maximum(moved, low), high)
    assert best is not None
    return best


def _runner(mllm: MLLM, inputs: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """pixel_values -> the last token's final state [1, d], with its history."""

    def run(pixels: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = mllm.final_norm.register_forward_hook(lambda module, args, out: kept.append(out[:, -1]))
        try:
            mllm.model(**prompt_inputs(mllm.model, {**inputs, "pixel_values": pixels}, None), logits_to_keep=1)
        finally:
            handle.remove()
        return kept[0]

    return run


def _scale(mllm: MLLM, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel by which the processor scales pixels, shaped to the pixel tensor.

    Raises InputError for processors that flatten patches, where a channel has no axis of its own.
    """
    images: Any = mllm.processor.image_processor
    mean, std = (torch.tensor(getattr(images, name), dtype=torch.float32, device=pixels.device) for name in ("image_mean", "image_std"))
    if pixels.ndim < 4 or pixels.shape[-3] != len(mean):
        raise InputError(f"{mllm.name} takes pixels of shape {tuple(pixels.shape)}; bounded changes need [..., channels, height, width].")
    return mean[:, None, None], std[:, None, None]
