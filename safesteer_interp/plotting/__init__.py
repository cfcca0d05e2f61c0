"""Figures: one style sheet, one palette, panels shared by the analyses. Draws from tidy tables and imports no model code.

- `style`: the style sheet and the size of figures, page or column, while a block runs
- `use_style`: the style sheet for a whole session, as a notebook wants it
- `new_figure`: a figure of a column's or a page's width, its panels beside or below one another
- `panels`: the panels: curves, forests, bars, densities, planes, ...
- `palette`: one colour and marker for each thing that is drawn
- `style_of`: those of one thing
- `save_figure`: PDF, SVG and PNG, the same bytes each time
"""

from __future__ import annotations

from safesteer_interp.plotting import palette, panels
from safesteer_interp.plotting.palette import style_of
from safesteer_interp.plotting.save import save_figure
from safesteer_interp.plotting.style import new_figure, style, use_style

__all__ = ["new_figure", "palette", "panels", "save_figure", "style", "style_of", "use_style"]
