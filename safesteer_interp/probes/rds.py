"""The optimiser of Root Defence Strategies (arXiv 2410.06809), the closest published stand-in for SafeSteer's unstated one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float


@dataclass(frozen=True)
class LinearFit:
    """A fitted linear classifier in the reduced space, with the loss it passed through."""

    weight: Float[np.ndarray, " k"]
    bias: float
    losses: Float[np.ndarray, " epochs"]
    """Mean binary cross-entropy (nats) before each epoch's update; the last entry belongs to the last weights tried."""


def fit_rds(
    features: Float[np.ndarray, "n k"],
    labels: Float[np.ndarray, " n"],
    *,
    learning_rate: float = 1e-3,
    max_epochs: int = 10_000,
    patience: int = 3,
    tolerance: float = 1e-4,
    seed: int = 42,
) -> LinearFit:
    """Full-batch AdamW on the binary cross-entropy; stops after `patience` epochs in a row without a drop above `tolerance`.

    The weights of the last such drop are kept. Source: code of arXiv 2410.06809 (`estimate.py`), `nn.Linear(4, 1)` initialisation.
    """
    x = torch.as_tensor(np.ascontiguousarray(features), dtype=torch.float32)
    y = torch.as_tensor(labels, dtype=torch.float32)
    bound = 1.0 / max(x.shape[1], 1) ** 0.5
    generator = torch.Generator().manual_seed(seed)
    weight = torch.empty(x.shape[1]).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(1).uniform_(-bound, bound, generator=generator)
    optimiser = torch.optim.AdamW([weight, bias], lr=learning_rate, foreach=False)
    best, best_weight, best_bias, stale = float("inf"), weight.clone(), bias.clone(), 0
    losses: list[float] = []
    for _ in range(max_epochs):
        logits = x @ weight + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y).item()
        losses.append(loss)
        if loss < best - tolerance:
            best, best_weight, best_bias, stale = loss, weight.clone(), bias.clone(), 0
        else:
            stale += 1
        if stale >= patience:
            break
        # The gradient is written out because autograd would cost more than the whole step for five parameters.
        residual = (torch.sigmoid(logits) - y) / len(y)
        weight.grad, bias.grad = x.T @ residual, residual.sum().reshape(1)
        optimiser.step()
    return LinearFit(best_weight.double().numpy(), float(best_bias), np.asarray(losses))
