"""What readers get: rendered folders, printed tables and the gallery. Imports neither torch nor transformers.

- `render`: figures, tables and pages of stored findings, drawn again
- `render_folder`: those of one finding
- `build`: the gallery and figures/README.md
- `write_readme`: the conclusions, put into a README
- `paper_page`: the replication table, for the documentation
"""

from __future__ import annotations

from safesteer_interp.report.pages import build
from safesteer_interp.report.readme import paper_page, write_readme
from safesteer_interp.report.render import render, render_folder

__all__ = ["build", "paper_page", "render", "render_folder", "write_readme"]
