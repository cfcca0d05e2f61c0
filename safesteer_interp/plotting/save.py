"""Writes figures as PDF, SVG and PNG whose bytes depend on what is drawn and on nothing else."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from safesteer_interp.analysis.files import write_bytes

FORMATS = ("pdf", "svg", "png")
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
"""Dates and library versions stay out of the files; provenance.json has them."""


def save_figure(figure: Figure, folder: Path, name: str = "figure") -> list[Path]:
    """Writes <name>.pdf, .svg and .png, each whole or not at all, and returns their paths."""
    written = []
    for kind in FORMATS:
        buffer = io.BytesIO()
        # The salt is set here too: a caller may draw without the style sheet, and without a salt SVG ids are random.
        with rc_context({"svg.hashsalt": "safesteer", "svg.fonttype": "path", "pdf.fonttype": 42}):
            figure.savefig(buffer, format=kind, metadata=_METADATA[kind], dpi=200)
        path = folder / f"{name}.{kind}"
        write_bytes(path, buffer.getvalue())
        written.append(path)
    return written
