"""`safesteer report`: the gallery of all results, what was learned, and the README's part of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safesteer_interp.cli.command import emit_json, parse


@dataclass(frozen=True)
class Report:
    """Write the gallery: what was learned, the paper item by item, and a page for each finding. Opens from disk, offline."""

    figures: Path = Path("figures")
    """Folder of the results; the first page is its index.html."""
    readme: Path | None = None
    """Also put the conclusions between the marks of this README."""
    json: bool = False
    """Print the page's path as JSON on stdout."""

    def run(self) -> int:
        """Writes the pages and prints where the first is."""
        from safesteer_interp.report import build, write_readme

        page = build(self.figures)
        changed = self.readme is not None and write_readme(self.readme, self.figures)
        if self.json:
            emit_json({"gallery": page, **({} if self.readme is None else {"readme": self.readme, "changed": changed})})
            return 0
        print(f"gallery: {page}")
        if self.readme is not None:
            print(f"{self.readme}: {'conclusions written' if changed else 'conclusions are as the results say'}")
        return 0


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Report, "report", arguments).run()
