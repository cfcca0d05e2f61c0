"""Models side by side: every claim that was measured on more than one, its number and verdict on each, and whether they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safesteer_interp.report.records import Finding


@dataclass(frozen=True)
class Compared:
    """One claim on several models."""

    finding: Finding
    statement: str
    id: str
    cells: tuple[dict[str, Any] | None, ...]
    """The claim on each model, in their order; None where it was not measured."""
    differs: bool
    """Whether its verdict is not the same on all."""


def compare(findings: Sequence[Finding], models: Sequence[str]) -> list[Compared]:
    """Claims with a number on two models or more, findings in gallery order, those that differ first within each."""
    found = []
    for finding in findings:
        by_model = {entry.name: {c["id"]: c for c in entry.claims} for entry in finding.entries}
        names = dict.fromkeys(name for claims in by_model.values() for name in claims)
        rows = []
        for name in names:
            cells = tuple(by_model.get(model, {}).get(name) for model in models)
            known = [cell for cell in cells if cell is not None]
            if len(known) > 1:
                rows.append(Compared(finding, known[0]["statement"], name, cells, len({c["verdict"] for c in known}) > 1))
        found += sorted(rows, key=lambda row: not row.differs)
    return found
