"""Which refusal direction: Arditi's selection by what editing with it does to the model (arXiv 2406.11717, appendix C).

For every candidate, on validation requests: *bypass* = refusal score of harmful ones with the direction ablated everywhere (low is
good), *induce* = refusal score of harmless ones with it added at its layer (must be positive), *kl* = divergence of the first-token
distribution of harmless ones under ablation (must stay small). One pass per candidate and quantity.

The reference drops requests that are not answered as labelled, takes every template token behind a request as a candidate's read
(`vectors.refusal.template_reads`), and holds the KL limit against the estimate alone; all three are offered, and how sure the choice is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.progress import track
from safesteer_interp.requests import Request
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.statistics import cluster_mean, cluster_weights
from safesteer_interp.steering.edits import ablate, add
from safesteer_interp.steering.schedule import Schedule, every_write
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.tracer import DEFAULT_TRACER, Edit
from safesteer_interp.vectors.direction import Direction
from safesteer_interp.vectors.refusal import eligible

RESOLVED = 0.95
"""Share of resamples that must agree before a choice counts as resolved."""
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


def answered_as_labelled(scores: Float[np.ndarray, " n"], harmful: Bool[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The requests that the reference keeps: harmful ones with a refusal score above 0 and harmless ones below (arXiv 2406.11717's code,
    `filter_train` and `filter_val`). The others would put the difference between asked-for and actual refusal into the means."""
    return np.where(harmful, scores > 0, scores < 0)


@dataclass(frozen=True, eq=False)
class Selection:
    """What the selection measured, and what it chose."""

    table: pd.DataFrame
    """One row per candidate: site, read, then bypass, induce and kl, each with _low and _high, n_harmful, n_harmless, `kept` (both
    conditions hold at the estimates, as in the reference) and `share`: how many of the resamples of the validation pairs choose it."""
    chosen: Direction | None
    """The kept candidate with the lowest bypass score; None when no candidate meets the conditions."""
    plain_harmful: float
    """Mean refusal score of the harmful requests without any edit: what `bypass` must be compared with."""
    plain_harmless: float
    """The same for harmless requests: what `induce` must be compared with."""
    dropped: int = 0
    """Validation requests that the filter left out."""
    share: float = math.nan
    """Share of the resamples that choose what was chosen, or that choose nothing where nothing was."""

    @property
    def resolved(self) -> bool:
        """Whether other validation pairs from the same source would have led to the same choice, in 19 of 20 cases."""
        return self.share >= RESOLVED

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
    filtered: bool = False,
    tracer: str = DEFAULT_TRACER,
    max_kl: float = MAX_KL,
    batch_size: int = 16,
    progress: bool = False,
    seed: int = 0,
) -> Selection:
    """Evaluate every candidate of the first 80 % of the layers on validation requests and choose among those that keep the conditions.

    `filtered` leaves out validation requests that are not answered as labelled, as the reference does. Which candidate is kept, and which
    of those is best, rests on estimates from few requests: `share` says how often resampled pairs would have chosen the same one.
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
            batch_size=batch_size, store=None, progress=False, logits=True,
        )  # fmt: skip
        return torch.from_numpy(np.asarray(trace.logits))

    plain = [first_logits(requests) for requests in (harmful, harmless)]
    scores = [refusal_score(logits, refusal_ids).double().numpy() for logits in plain]
    if not all(np.isfinite(side.mean()) for side in scores):
        raise InputError("the model's first-token logits are not finite; load it in float32 or bfloat16.")
    asked, dropped = [list(harmful), list(harmless)], 0
    if filtered:
        masks = [answered_as_labelled(side, np.full(len(side), bad)) for side, bad in zip(scores, (True, False), strict=True)]
        if not all(mask.any() for mask in masks):
            raise InputError(
                "the filter leaves no harmful request that is refused or no harmless one that is not; select with filtered=False, or give "
                "requests that the model tells apart."
            )
        dropped = sum(int((~mask).sum()) for mask in masks)
        asked = [[r for r, keep in zip(side, mask, strict=True) if keep] for side, mask in zip(asked, masks, strict=True)]
        plain = [logits[torch.from_numpy(mask)] for logits, mask in zip(plain, masks, strict=True)]
        scores = [side[mask] for side, mask in zip(scores, masks, strict=True)]
    everywhere = Schedule(every_write(mllm))
    measured = _Measured([np.array([r.pair for r in side]) for side in asked])
    for candidate in track(kept, "candidates", enabled=progress):
        without = [everywhere.edit(ablate(candidate))]
        # Coefficient 1 of the paper: the mean difference itself, not one residual norm.
        with_it = [Schedule((candidate.site,)).edit(add(candidate, candidate.raw_norm / candidate.residual_norm))]
        measured.add(
            bypass=refusal_score(first_logits(asked[0], without), refusal_ids),
            induce=refusal_score(first_logits(asked[1], with_it), refusal_ids),
            kl=first_token_divergence(first_logits(asked[1], without), plain[1]),
        )
    table, best = measured.table(kept, max_kl), measured.choice(max_kl)
    drawn = measured.resampled_choices(max_kl, seed)
    table["share"] = [float((drawn == place).mean()) for place in range(len(kept))]
    share = float((drawn == best).mean())
    plainly = [float(side.mean()) for side in scores]
    return Selection(table, None if best < 0 else kept[best], plainly[0], plainly[1], dropped, share)


class _Measured:
    """What editing with each candidate did to each request: quantity -> [candidates][requests]."""

    def __init__(self, pairs: Sequence[np.ndarray]) -> None:
        self.pairs = {"bypass": pairs[0], "induce": pairs[1], "kl": pairs[1]}
        self.values: dict[str, list[np.ndarray]] = {name: [] for name in self.pairs}

    def add(self, **found: Tensor) -> None:
        """One more candidate."""
        for name, values in found.items():
            self.values[name].append(values.double().numpy())

    def table(self, candidates: Sequence[Direction], max_kl: float) -> pd.DataFrame:
        """Means with intervals over pairs, one row per candidate."""
        rows = []
        for place, candidate in enumerate(candidates):
            row: dict[str, Any] = {"site": candidate.origin.site, "read": candidate.origin.read}
            for name, pairs in self.pairs.items():
                estimate = cluster_mean(self.values[name][place], pairs)
                row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
            row |= {"n_harmful": len(self.pairs["bypass"]), "n_harmless": len(self.pairs["induce"])}
            rows.append(row | {"kept": bool(row["induce"] > 0 and row["kl"] < max_kl)})
        return pd.DataFrame(rows)

    def choice(self, max_kl: float) -> int:
        """Place of the candidate that the means choose; -1 when none meets the conditions."""
        means = {name: np.array([[values.mean() for values in found]]) for name, found in self.values.items()}
        return int(_chosen(means, max_kl)[0])

    def resampled_choices(self, max_kl: float, seed: int, replicates: int = 1000) -> np.ndarray:
        """[replicates] the place that means over resampled pairs choose; a pair's harmful and harmless request are drawn together."""
        names, codes = np.unique(np.concatenate([self.pairs["bypass"], self.pairs["induce"]]), return_inverse=True)
        split = len(self.pairs["bypass"])
        weights, means = cluster_weights(len(names), replicates, seed), {}
        for name, found in self.values.items():
            drawn = weights[:, codes[:split] if name == "bypass" else codes[split:]]
            total = drawn.sum(axis=1, keepdims=True)
            means[name] = np.divide(drawn @ np.stack(found, axis=1), total, out=np.full((replicates, len(found)), np.nan), where=total > 0)
        return _chosen(means, max_kl)


def _chosen(means: Mapping[str, np.ndarray], max_kl: float) -> np.ndarray:
    """[replicates] the candidate with the lowest bypass among those that keep the conditions, from means [replicates, candidates]."""
    kept = (means["induce"] > 0) & (means["kl"] < max_kl)
    bypass = np.where(kept & np.isfinite(means["bypass"]), means["bypass"], np.inf)
    return np.where(np.isfinite(bypass).any(axis=1), bypass.argmin(axis=1), -1)
