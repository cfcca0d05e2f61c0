"""The shipped findings as a package: `safesteer_interp.analyses.<id>`, one module per finding.

Their source is the folder `analyses/` at the top of a checkout, which the wheel carries as `_analyses/` beside this file.
"""

from __future__ import annotations

from pathlib import Path

_INSTALLED = Path(__file__).resolve().parent / "_analyses"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "analyses"
"""Where the shipped findings lie."""

__path__ = [str(FOLDER)]
