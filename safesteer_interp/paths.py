"""Where things live on disk: the user cache, the optional data root, the repository's own folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """The user cache: `$SAFESTEER_CACHE`, else `$XDG_CACHE_HOME/safesteer_interp`, else `~/.cache/safesteer_interp`."""
    if own := os.environ.get("SAFESTEER_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "safesteer_interp"


_stores: list[Path] = []
"""Folders of traces that were asked for, the one in force last. No context variable: threads that a judge starts write there, too."""


@contextmanager
def storing_in(traces: Path | None) -> Iterator[None]:
    """While open, what is kept by content lies in and beside this folder of traces (`store_dir`); None changes nothing."""
    if traces is None:
        yield
        return
    _stores.append(traces)
    try:
        yield
    finally:
        _stores.pop()


def store_dir(kind: str) -> Path:
    """Where "traces", "responses", "verdicts" or "candidates" are kept: in the user cache, or where `storing_in` says."""
    return beside(_stores[-1], kind) if _stores else cache_dir() / kind


def beside(traces: Path, kind: str) -> Path:
    """The folder of another kind that belongs to a folder of traces: "my" has its answers in "my-responses"."""
    if kind == "traces":
        return traces
    named = traces if traces.name not in ("", "..") else traces.resolve()  # "." has no name of its own
    return named.with_name(f"{named.name}-{kind}")


def data_root() -> Path | None:
    """Folder with the public benchmarks: `$SAFESTEER_DATA`, else `../shared/data` beside the working folder, else None."""
    candidate = Path(os.environ.get("SAFESTEER_DATA", "../shared/data"))
    return candidate if candidate.is_dir() else None
