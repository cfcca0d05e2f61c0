"""The stamp of a figure: one small line under it that says of which model, data and run it is, so that a copied picture still says so."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from safesteer_interp.plotting.palette import MUTED
from safesteer_interp.plotting.style import SMALLEST

BAND = 0.17
"""Inches added below a figure for the line."""
_GID = "stamp"


def stamp(figure: Figure, words: str) -> float:
    """Writes a line into a band added below the figure; nothing that is drawn moves onto it. Stamped again, the words are replaced.

    Returns the share of the figure's height that the band takes, by which a legend at the foot is to be lifted once all is laid out;
    0 for empty words, which change nothing.
    """
    if not words:
        return 0.0
    for old in [text for text in figure.texts if text.get_gid() == _GID]:
        old.set_text(words)
        return BAND / figure.get_figheight()
    height = figure.get_figheight() + BAND
    share = BAND / height
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, share, 1, 1 - share))
    else:
        for ax in figure.axes:
            left, bottom, width, tall = ax.get_position().bounds
            ax.set_position((left, share + bottom * (1 - share), width, tall * (1 - share)))
    figure.set_figheight(height)
    line = figure.text(1 - 0.04 / figure.get_figwidth(), 0.03 / height, words, ha="right", va="bottom", fontsize=SMALLEST, color=MUTED)
    line.set_gid(_GID)
    line.set_in_layout(False)
    return share
