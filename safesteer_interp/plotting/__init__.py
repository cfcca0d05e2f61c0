"""Figures: one style sheet, one palette, panels shared by the analyses. Draws from tidy tables and imports no model code."""

from __future__ import annotations

from safesteer_interp.plotting import palette, panels
from safesteer_interp.plotting.palette import style_of
from safesteer_interp.plotting.save import save_figure
from safesteer_interp.plotting.style import new_figure, style

__all__ = ["new_figure", "palette", "panels", "save_figure", "style", "style_of"]
