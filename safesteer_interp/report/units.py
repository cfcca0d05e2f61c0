"""What an estimate counts: pairs of requests, random starts, vectors, ... A count is never shown under another's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAIRS = "pairs"


def unit_of(record: Mapping[str, Any]) -> str:
    """The name of the independent units behind a claim's or control's estimate, as its record says."""
    found = record["estimate"].get("unit") or record.get("units")
    return str(found) if found else PAIRS


def counted(record: Mapping[str, Any]) -> str:
    """ "n = 40 rows, 20 pairs": rows, and the independent units among them where there are any."""
    estimate = record["estimate"]
    n, clusters = estimate["n"], estimate["clusters"]
    if clusters is None:
        return f"n = {n}"
    unit = unit_of(record)
    named = unit.removesuffix("s") if int(clusters) == 1 else unit
    return f"n = {clusters} {named}" if clusters == n else f"n = {n}, {clusters} {named}"
