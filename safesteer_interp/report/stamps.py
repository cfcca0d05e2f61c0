"""The line stamped under every figure: model, data, number of pairs, profile. From the records of a result, never typed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from safesteer_interp.report.units import PAIRS, unit_of


def stamp_of(record: Mapping[str, Any], claims: Iterable[Mapping[str, Any]]) -> str:
    """E.g. "mini · bundled · n = 24 to 104 pairs · profile quick"; a model with planted answers is called what it is.

    `record` is provenance.json; n spans the estimates of the claims whose independent units are pairs, the usual unit.
    """
    model = record["model"]
    name = f"{model['name']}{' (known-answer fixture)' if model.get('known_answer') else ''}"
    return " · ".join(filter(None, (name, str(record["data"]["name"]), pairs_of(claims), f"profile {record['profile']}")))


def pairs_of(claims: Iterable[Mapping[str, Any]]) -> str:
    """ "n = 32 pairs", or their range over the claims; empty where no estimate rests on pairs."""
    estimates = [c["estimate"] for c in claims if unit_of(c) == PAIRS and c["estimate"].get("kind") != "spread"]
    counts = sorted({int(e["clusters"]) for e in estimates if e["clusters"] is not None})
    if not counts:
        return ""
    return f"n = {counts[0]} pairs" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]} pairs"
