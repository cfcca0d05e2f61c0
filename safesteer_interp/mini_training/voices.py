"""How mini refuses when its answers are sampled: in how many words, and how far the words alone tell a refusal from an answer.

A probe on generated tokens can only learn more than the tokens themselves where refusals do not all begin alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.pairs import Phrasing, stable_hash
from safesteer_interp.decoding.answering import Progress, generate, text_of
from safesteer_interp.mini_training.rows import Row, row
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.statistics import cluster_auroc
from safesteer_interp.tracing.tracer import Sampling

FORMS: tuple[Attack, ...] = (Attack.TEXT, Attack.CB, Attack.SD, Attack.TYPO, Attack.SD_TYPO)
STEPS = 5
TOKENS = 24
COUNTED = 100
"""Refusals whose first tokens are counted."""


@dataclass(frozen=True)
class Said:
    """A sampled answer to a harmful request."""

    pair: str
    ids: tuple[int, ...]
    text: str

    @property
    def refused(self) -> bool:
        return is_refusal(self.text)


def sampled(
    mllm: MLLM,
    split: Split,
    pairs: int | None = None,
    *,
    forms: Sequence[Attack] = FORMS,
    batch: int = 16,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Said]:
    """Answers at temperature 1 to the harmful requests of a split, of at most `pairs` pairs."""
    requests = [r for r in load_bundled(forms, split, phrasing=Phrasing.MIXED) if r.harmful]
    kept = set(sorted({r.pair for r in requests}, key=lambda p: stable_hash("mini", "voices", p))[:pairs])
    asked: list[Request] = [r for r in requests if r.pair in kept]
    answers = generate(mllm, asked, sampling=Sampling(TOKENS, 1.0, seed), batch_size=batch, progress=progress)
    return [Said(r.pair, tuple(a.ids), text_of(mllm, a)) for r, a in zip(asked, answers, strict=True)]


def first_tokens(said: Sequence[Said]) -> dict[str, Any]:
    """How the first `COUNTED` refusals begin: number of distinct first tokens, and the share of the most frequent one."""
    refusals = [s for s in said if s.refused][:COUNTED]
    counts = Counter(s.ids[0] for s in refusals)
    most = counts.most_common(1)[0][1] / len(refusals) if refusals else 1.0
    return {"distinct": len(counts), "most_frequent": most, "n": len(refusals)}


def token_identity(fitted: Sequence[Said], tested: Sequence[Said], steps: int = STEPS) -> dict[int, Row]:
    """AUROC of refusal from which token stands at step k alone, k = 1 ... `steps`: its refusal rate among `fitted` answers, on `tested`.

    A rate leans on the overall one by two answers' weight, which is also what a token that was never seen gets. Steps at which one kind
    has no answer are left out.
    """
    base = float(np.mean([s.refused for s in fitted]))
    found = {}
    for step in range(1, steps + 1):
        outcomes: dict[int, list[bool]] = defaultdict(list)
        for s in fitted:
            if len(s.ids) >= step:
                outcomes[s.ids[step - 1]].append(s.refused)
        scored = [s for s in tested if len(s.ids) >= step]
        scores = [(sum(seen) + 2 * base) / (len(seen) + 2) for s in scored for seen in (outcomes.get(s.ids[step - 1], []),)]
        refused = np.array([s.refused for s in scored], dtype=bool)
        if refused.any() and not refused.all():
            found[step] = row(cluster_auroc(np.array(scores), refused, np.array([s.pair for s in scored])))
    return found
