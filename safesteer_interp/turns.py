"""Processes of one run that need the same thing made: one makes it, the others wait and use it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

WORKER = "SAFESTEER_WORKER"
"""Environment variable that tells the workers of one run apart."""


@contextmanager
def in_turn(folder: Path, key: str, *, wait: bool = True) -> Iterator[bool]:
    """Ours alone among the workers of a run while open; without `wait` it gives False at once where another has it.

    True at once in a run of one process, and where the file system gives no locks: the same thing may then be made twice, which harms
    nothing. A killed process's turn ends with it.
    """
    lock = None
    if os.environ.get(WORKER):
        try:
            (folder / ".locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".locks" / f"{key}.lock")
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        except OSError:
            lock = None
    try:
        yield True
    finally:
        if lock is not None:
            lock.release()
