"""`safesteer render`: draw figures and printed tables again from their CSV files, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safesteer_interp.cli.command import Positional, emit_json, parse


@dataclass(frozen=True)
class Render:
    """Redraw figures and printed tables from the stored tables. No model is loaded."""

    ids: Positional[tuple[str, ...]] = ()
    """Analyses by id; none: all."""
    figures: Path = Path("figures")
    """Folder of the results."""
    analyses: Path | None = None
    """Folder with analyses of your own, besides the shipped ones and those in ./analyses."""
    json: bool = False
    """Print the files written as JSON on stdout."""

    def run(self) -> int:
        """Draws and prints which files were written."""
        from safesteer_interp.report import render

        written = render(self.ids, figures=self.figures, folder=self.analyses)
        if self.json:
            emit_json({"written": written})
        else:
            print(f"{len(written)} files written below {self.figures}")
        return 0


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Render, "render", arguments).run()
