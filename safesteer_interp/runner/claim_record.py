"""claims.json: the claims of one analysis with their verdicts, as plain numbers and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from safesteer_interp.runner.claim import Claim
from safesteer_interp.runner.verdict import judge
from safesteer_interp.statistics import Against, Estimate

SCHEMA_VERSION = 2
"""Version of claims.json; raised whenever a field changes its meaning."""


def claim_records(claims: Sequence[Claim], *, model: str, dataset: str, scope: str) -> dict[str, Any]:
    """What claims.json holds. Raises ValueError when two claims share an id.

    Fields: schema (version), model, dataset, scope (the sentence that limits every claim), claims. Each claim: id, kind ("finding",
    "replication", "sanity"), source and printed (of a replication), statement, verdict ("supported", "contradicted", "undecided"),
    reason, p (two-sided), p_holm (adjusted over the findings and replications of this file), clusters_missing, power (at least how
    probable "supported" was, had the claim held by `effect`), clusters (what the independent units are called), estimate, unit,
    direction ("above", "below", "within"), threshold (a number; [low, high] for "within"), difference_to, controls (name, kind "null",
    "paired" or "context", absolute, estimate), effect, note. Each estimate: value, low, high (null where there is none), n, clusters
    (independent units; null where rows are independent), level (of the interval, 0.95; of a spread the central share of the draws), p,
    against, kind ("spread" where low and high are no interval but the spread of draws).
    """
    ids = [c.id for c in claims]
    if len(set(ids)) != len(ids):
        raise ValueError(f"claims need distinct ids, got {ids}.")
    return {
        "schema": SCHEMA_VERSION,
        "model": model,
        "dataset": dataset,
        "scope": scope,
        "claims": [
            {
                "id": c.id,
                "kind": c.kind,
                "source": c.source,
                "printed": c.printed,
                "statement": c.statement,
                "verdict": str(found.verdict),
                "reason": found.account,
                "p": _number(found.p),
                "p_holm": _number(found.p_holm),
                "clusters_missing": found.clusters_missing,
                "power": _number(found.power),
                "clusters": c.clusters,
                "estimate": estimate_record(c.estimate),
                "unit": c.unit,
                "direction": c.direction,
                "threshold": _edge(c.threshold),
                "difference_to": c.difference_to,
                "controls": [
                    {"name": k.name, "kind": k.kind, "absolute": k.absolute, "estimate": estimate_record(k.estimate)} for k in c.controls
                ],
                "effect": c.effect,
                "note": c.note,
            }
            for found in judge(claims)
            for c in (found.claim,)
        ],
    }


def estimate_record(estimate: Estimate) -> dict[str, Any]:
    """JSON form of an estimate: its fields, null where not finite; six significant digits."""
    return {
        "value": _number(estimate.value),
        "low": _number(estimate.low),
        "high": _number(estimate.high),
        "n": int(estimate.n),
        "clusters": None if estimate.clusters is None else int(estimate.clusters),
        "level": _number(estimate.level),
        "p": None if estimate.p is None else _number(estimate.p),
        "against": None if estimate.against is None else _edge(estimate.against),
        "kind": estimate.kind,
    }


def _edge(x: Against) -> float | list[float | None] | None:
    return [_number(end) for end in x] if isinstance(x, tuple) else _number(x)


def _number(x: float) -> float | None:
    return float(f"{x:.6g}") if math.isfinite(x) else None
