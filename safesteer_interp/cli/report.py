"""`safesteer report`: the gallery, one static page over all results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safesteer_interp.cli.command import emit_json, parse


@dataclass(frozen=True)
class Report:
    """Write the gallery: each finding with question, figure, claims, verdicts, table and provenance. Opens from disk, offline."""

    figures: Path = Path("figures")
    """Folder of the results; the page is its index.html."""
    json: bool = False
    """Print the page's path as JSON on stdout."""

    def run(self) -> int:
        """Writes the page and prints where it is."""
        from safesteer_interp.report import build

        page = build(self.figures)
        emit_json({"gallery": page}) if self.json else print(f"gallery: {page}")
        return 0


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Report, "report", arguments).run()
