"""What readers get: rendered folders, printed tables and the gallery. Imports neither torch nor transformers.

- `render`: figures, tables and pages of stored findings, drawn again
- `render_folder`: those of one finding
- `build`: the gallery and figures/README.md
- `write_readme`: the conclusions, put into a README
"""

from __future__ import annotations

from safesteer_interp.report.pages import build
from safesteer_interp.report.readme import write_readme
from safesteer_interp.report.render import render, render_folder

__all__ = ["build", "render", "render_folder", "write_readme"]
