"""What an estimate counts: pairs of requests, random starts, vectors, ... A count is never shown under another's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAIRS = "pairs"


def unit_of(record: Mapping[str, Any]) -> str:
    """What the independent units behind a claim's estimate are called, in the plural; "pairs" in records from before they said so."""
    return str(record.get("clusters") or PAIRS)


def counted(record: Mapping[str, Any]) -> str:
    """ "n = 40, 20 pairs": rows, and the independent units among them; one number where every row is a unit of its own."""
    estimate = record["estimate"]
    n, clusters = int(estimate["n"]), estimate["clusters"]
    if clusters is None:
        return f"n = {n}"
    unit = "draws" if estimate.get("kind") == "spread" else unit_of(record)
    named = unit.removesuffix("s") if int(clusters) == 1 else unit
    return f"n = {n} {named}" if int(clusters) == n else f"n = {n}, {clusters} {named}"
