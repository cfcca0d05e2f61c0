"""Paths that come from data stay inside the folder the data lie in: not absolute, no "..", no link that leads out."""

from __future__ import annotations

from pathlib import Path

from safesteer_interp.errors import InputError
from safesteer_interp.reading import printable


def inside(root: Path, name: str, where: str, advice: str = "") -> Path:
    """The file `name` below `root`. Raises InputError, naming `where` (file, line and field), when it leads out or is no file.

    `advice` says what to do about a missing file.
    """
    shown = printable(name if len(name) <= 100 else name[:99] + "…")
    path = root / name
    try:
        leaves = Path(name).is_absolute() or ".." in Path(name).parts or not path.resolve().is_relative_to(root.resolve())
        missing = not path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long a name, links in a circle, a NUL, half a surrogate pair
        raise InputError(f'{where} is "{shown}", which is no path; use a relative path inside {root}.') from None
    if leaves:
        raise InputError(f'{where} is "{shown}", which leaves the folder {root}; use a relative path inside it.')
    if missing:
        raise InputError(f"{where} names {root / shown}, which does not exist{f'; {advice}' if advice else '.'}")
    return path
