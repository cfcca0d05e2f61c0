"""Which refusal direction: Arditi's selection by what editing with it does to the model (arXiv 2406.11717, appendix C).

For every candidate, on validation requests: *bypass* = refusal score of harmful ones with the direction ablated everywhere (low is
good), *induce* = refusal score of harmless ones with it added at its layer (must be positive), *kl* = divergence of the first-token
distribution of harmless ones under ablation (must stay small). One pass per candidate and quantity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.statistics import cluster_mean
from safesteer_interp.steering.edits import ablate, add
from safesteer_interp.steering.schedule import Schedule, every_write
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.tracer import DEFAULT_TRACER, Edit
from safesteer_interp.vectors.direction import Direction
from safesteer_interp.vectors.refusal import eligible

MAX_KL = 0.1
"""Nats; a candidate that changes harmless requests more than this is not a refusal direction only."""


def refusal_score(logits: Float[Tensor, "batch vocab"], refusal_ids: Sequence[int]) -> Float[Tensor, " batch"]:
    """log p_ref - log(1 - p_ref) with p_ref the first-token mass on the refusal tokens (arXiv 2406.11717 appendix B).

    Raises InputError when the ids are none or all of the vocabulary.
    """
    ids = torch.as_tensor(sorted(set(refusal_ids)), device=logits.device)
    if not 0 < len(ids) < logits.shape[-1]:
        raise InputError(f"the refusal score needs some but not all of the {logits.shape[-1]} tokens, got {len(ids)} refusal tokens.")
    refusal = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    refusal[ids] = True
    exact = logits.double()
    return (exact[:, refusal].logsumexp(-1) - exact[:, ~refusal].logsumexp(-1)).to(logits.dtype)


def first_token_divergence(changed: Float[Tensor, "batch vocab"], plain: Float[Tensor, "batch vocab"]) -> Float[Tensor, " batch"]:
    """KL(plain || changed) of the next-token distributions, in nats."""
    p, q = plain.double().log_softmax(-1), changed.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp_min(0).to(plain.dtype)


@dataclass(frozen=True, eq=False)
class Selection:
    """What the selection measured, and what it chose."""

    table: pd.DataFrame
    """One row per candidate: site, read, then bypass, induce and kl, each with _low and _high, n_harmful, n_harmless, kept."""
    chosen: Direction | None
    """The kept candidate with the lowest bypass score; None when no candidate meets the conditions."""
    plain_harmful: float
    """Mean refusal score of the harmful requests without any edit: what `bypass` must be compared with."""
    plain_harmless: float
    """The same for harmless requests: what `induce` must be compared with."""

    def require(self) -> Direction:
        """The chosen direction. Raises InputError, with the nearest miss, when there is none."""
        if self.chosen is not None:
            return self.chosen
        best = self.table.sort_values("bypass").iloc[0]
        raise InputError(
            f"no refusal direction meets the conditions (induce > 0, kl < limit); the best bypass is at {best.site} ({best.read}) with "
            f"induce {best.induce:.2f} and kl {best.kl:.3f}. The model may not refuse, or the refusal tokens may be wrong."
        )


def select_refusal_direction(
    mllm: MLLM,
    candidates: Iterable[Direction],
    harmful: Sequence[Request],
    harmless: Sequence[Request],
    refusal_ids: Sequence[int],
    *,
    tracer: str = DEFAULT_TRACER,
    max_kl: float = MAX_KL,
    batch_size: int = 16,
    progress: bool = False,
) -> Selection:
    """Evaluate every candidate of the first 80 % of the layers on validation requests and choose among those that keep the conditions.

    Cost: 2 + 3 passes per candidate over the requests. Raises InputError when a side is empty, UsageError for foreign candidates.
    """
    if not harmful or not harmless:
        raise InputError(f"the selection needs harmful and harmless validation requests, got {len(harmful)} and {len(harmless)}.")
    kept = eligible(candidates, mllm.n_layers)
    for candidate in kept:
        candidate.guard(mllm)

    def first_logits(requests: Sequence[Request], edits: Sequence[Edit] = ()) -> Tensor:
        trace = collect(
            mllm, requests, sites=[Site(SiteKind.FINAL_NORM)], reads="last_prompt", tracer=tracer, edits=edits,
            batch_size=batch_size, store=None, progress=progress, logits=True,
        )  # fmt: skip
        return torch.from_numpy(np.asarray(trace.logits))

    plain_harmful, plain_harmless = (first_logits(requests) for requests in (harmful, harmless))
    everywhere = Schedule(every_write(mllm))
    rows: list[dict[str, Any]] = []
    for candidate in kept:
        without = [everywhere.edit(ablate(candidate))]
        # Coefficient 1 of the paper: the mean difference itself, not one residual norm.
        with_it = [Schedule((candidate.site,)).edit(add(candidate, candidate.raw_norm / candidate.residual_norm))]
        measured = {
            "bypass": (refusal_score(first_logits(harmful, without), refusal_ids), harmful),
            "induce": (refusal_score(first_logits(harmless, with_it), refusal_ids), harmless),
            "kl": (first_token_divergence(first_logits(harmless, without), plain_harmless), harmless),
        }
        row: dict[str, Any] = {"site": candidate.origin.site, "read": candidate.origin.read}
        for name, (values, requests) in measured.items():
            estimate = cluster_mean(values.double().numpy(), np.array([r.pair for r in requests]))
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {"n_harmful": len(harmful), "n_harmless": len(harmless), "kept": bool(row["induce"] > 0 and row["kl"] < max_kl)}
        rows.append(row)
    best = min((i for i, row in enumerate(rows) if row["kept"]), key=lambda i: rows[i]["bypass"], default=None)
    means = [float(refusal_score(x, refusal_ids).double().mean()) for x in (plain_harmful, plain_harmless)]
    if not all(map(math.isfinite, means)):
        raise InputError("the model's first-token logits are not finite; load it in float32 or bfloat16.")
    return Selection(pd.DataFrame(rows), None if best is None else kept[best], *means)
