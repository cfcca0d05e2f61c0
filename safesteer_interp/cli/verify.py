"""`safesteer verify`: compute stored results again and say which cell or claim moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesteer_interp.cli.command import Positional, emit_json, parse


@dataclass(frozen=True)
class Verify:
    """Recompute results with their stored parameters and compare, cell by cell and claim by claim.

    Exit code 1: a number or claim moved (each is named). 3: a result could not be recomputed.
    """

    ids: Positional[tuple[str, ...]] = ()
    """Analyses by id; none: all."""
    model: str | None = None
    """Only this model's results; a path or hub id also says where to load it from."""
    data: str | None = None
    """Only results on this data set; the path of a .jsonl file also says where to read it from."""
    figures: Path = Path("figures")
    """Folder of the results."""
    analyses: Path | None = None
    """Folder with analyses of your own, besides the shipped ones and those in ./analyses."""
    retrace: bool = False
    """Also make the traces and the answers again."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    store: Path | None = None
    """Folder of traces; default: "traces" in the user cache."""
    device: str = "cpu"
    """Where the model runs."""
    json: bool = False
    """Print the outcome as JSON on stdout."""

    def run(self) -> int:
        """Verifies and prints what moved."""
        from safesteer_interp.runner import verify

        places: dict[str, Any] = {"data_root": self.data_root, "device": self.device}
        if self.store is not None:
            places["store"] = self.store
        report = verify(
            self.ids, model=self.model, data=self.data, figures=self.figures, folder=self.analyses, retrace=self.retrace, **places
        )
        emit_json(report.record()) if self.json else print(report)
        return report.exit_code


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Verify, "verify", arguments).run()
