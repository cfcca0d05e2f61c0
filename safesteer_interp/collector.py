"""Python's cyclic garbage collector, off where it only costs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While open nothing looks for cyclic garbage: importing modules and reading weights makes next to none, and looking for it among
    all that was made took a quarter of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
