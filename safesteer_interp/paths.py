"""Where things live on disk: the user cache, the optional data root, the repository's own folders."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The user cache: `$SAFESTEER_CACHE`, else `$XDG_CACHE_HOME/safesteer_interp`, else `~/.cache/safesteer_interp`."""
    if own := os.environ.get("SAFESTEER_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "safesteer_interp"


def data_root() -> Path | None:
    """Folder with the public benchmarks: `$SAFESTEER_DATA`, else `../shared/data` beside the working folder, else None."""
    candidate = Path(os.environ.get("SAFESTEER_DATA", "../shared/data"))
    return candidate if candidate.is_dir() else None
