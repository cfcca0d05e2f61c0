"""Writes figures as PDF, SVG and PNG whose bytes depend on what is drawn and on nothing else."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from safesteer_interp.files import write_bytes
from safesteer_interp.plotting.fit import fit_words
from safesteer_interp.plotting.letters import find_letters, let_powers_be_formulas, quietly
from safesteer_interp.plotting.panels.shared import lift_legend
from safesteer_interp.plotting.stamp import stamp

FORMATS = ("pdf", "svg", "png")
DPI = 200
_METADATA: dict[str, dict[str, str | None]] = {
    "pdf": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None},
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
"""Dates and library versions stay out of the files; provenance.json has them."""
_ABOUT = {"pdf": "Subject", "svg": "Description", "png": "Description"}
"""Where a file says in its own record what it shows."""


def save_figure(figure: Figure, folder: Path, name: str = "figure", *, words: str = "", formats: Sequence[str] = FORMATS) -> list[Path]:
    """Writes <name>.pdf, .svg and .png, each whole or not at all, and returns their paths.

    `words` (the model, the data, n, the profile) are stamped below the figure and kept in the files' own records.
    """
    written = []
    foot = stamp(figure, words)
    # Laid out once for all three, since that is a third of the time of drawing; at their resolution, because hinting changes how wide
    # a label is.
    resolution = figure.dpi
    figure.dpi = DPI
    let_powers_be_formulas(figure)
    find_letters(figure)
    with quietly():
        figure.draw_without_rendering()
        while fit_words(figure):  # what is broken is not broken again, so that this ends
            figure.draw_without_rendering()
    if foot:
        lift_legend(figure, foot)
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    for kind in formats:
        buffer = io.BytesIO()
        # The salt is set here too: a caller may draw without the style sheet, and without a salt SVG ids are random.
        with quietly(), rc_context({"svg.hashsalt": "safesteer", "svg.fonttype": "path", "pdf.fonttype": 42}):
            figure.savefig(buffer, format=kind, metadata={**_METADATA[kind], **({_ABOUT[kind]: words} if words else {})}, dpi=DPI)
        path = folder / f"{name}.{kind}"
        write_bytes(path, buffer.getvalue())
        written.append(path)
    if engine is not None:
        figure.set_layout_engine(engine)
    lift_legend(figure, None)
    figure.dpi = resolution
    return written
