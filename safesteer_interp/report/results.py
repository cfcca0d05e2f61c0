"""All results below a folder, and what every page computes from them: conclusions, replication, claims by model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safesteer_interp.errors import InputError
from safesteer_interp.report.conclusions import Answer, conclude
from safesteer_interp.report.records import collect_findings
from safesteer_interp.report.replication import Row, replication_rows


class Results:
    """All results below a folder, and what is computed from them for every page."""

    def __init__(self, figures: Path) -> None:
        """Raises InputError when there is nothing to show, or a file is damaged."""
        self.findings, self.checks = collect_findings(figures)
        if not self.findings and not self.checks:
            raise InputError(f"no result below {figures}; make some with `safesteer run`.")
        own = {e.name: e.model for f in self.findings for e in f.entries}
        measured = {e.name for f in self.findings for e in f.entries if e.fingerprint}
        # what has notes of failures alone stands after what was measured, also where it is named as mini's folder is
        self.models = sorted(own, key=lambda name: (name not in measured, name != "mini", own[name] != "mini"))
        """What was measured, by the names that pages use."""

    def claims(self, model: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Finding -> claim id -> claim, on one model (and data set, where it has another than the usual one)."""
        found = {f.id: {c["id"]: c for e in f.entries if e.name == model for c in e.claims} for f in self.findings}
        return {name: its for name, its in found.items() if its}

    def slug(self, finding: str, model: str) -> str:
        """What the anchors of a finding's claims on a model begin with."""
        return next(e.slug for f in self.findings if f.id == finding for e in f.entries if e.name == model)

    def places(self, model: str) -> dict[str, str]:
        """Finding -> where its result on a model lies, below the folder of all results."""
        return {f.id: f"{f.id}/{e.folder}" for f in self.findings for e in f.entries if e.name == model}

    def measured_in(self, folder: str, fingerprint: str) -> str:
        """The name of what lies in folders of a name, measured on these weights; "" where there is none."""
        entries = (e for f in self.findings for e in f.entries)
        return next((e.name for e in entries if e.folder == folder and e.fingerprint == fingerprint), "")

    def answers(self, model: str) -> list[Answer]:
        """The conclusions on one model."""
        return conclude(self.claims(model), {other: self.claims(other) for other in self.models if other != model})

    def replication(self, model: str) -> list[Row]:
        """The paper item by item, on one model."""
        return replication_rows(self.claims(model), {f.id: f.replicates for f in self.findings})
