"""What readers get: rendered folders, printed tables and the gallery. Imports neither torch nor transformers.

- `render`: figures, tables and pages of stored findings, drawn again
- `render_folder`: those of one finding
- `build`: the gallery
"""

from __future__ import annotations

from safesteer_interp.report.gallery import build
from safesteer_interp.report.render import render, render_folder

__all__ = ["build", "render", "render_folder"]
