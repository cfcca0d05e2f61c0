"""How many requests go through the model at once: a fixed number, or as many as fit, found by doubling and halving.

The size of a batch moves no number beyond rounding, so running out of memory is no reason to stop: the batch is halved and run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import write_json
from safesteer_interp.paths import cache_dir

Item = TypeVar("Item")
Made = TypeVar("Made")
AUTO = "auto"
_FULL = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
FIRST, MOST = 8, 1024
"""Sizes that `auto` begins with and ends at."""


def parse_batch_size(text: str | int) -> int | str:
    """A number of requests, or "auto". Raises UsageError for anything else."""
    if text == AUTO:
        return AUTO
    try:
        size = int(text)
    except ValueError:
        size = 0
    if size < 1:
        raise UsageError(f'batch size {text} is not a positive whole number; give one, or "auto" for the largest that fits.')
    return size


def is_out_of_memory(cause: BaseException) -> bool:
    """Whether an error says that a device's or the machine's memory is full."""
    if isinstance(cause, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(cause, RuntimeError) and any(
        w in str(cause) for w in ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC")
    )


@dataclass
class BatchSize:
    """The size of the next batch on one model; it learns from what fits and what does not."""

    asked: int | str
    """A fixed number, or "auto"."""
    place: str = ""
    """What the largest size that fits is remembered under: model and device. Empty: it is not."""
    now: int = field(init=False)
    too_large: int = field(init=False, default=MOST + 1)

    def __post_init__(self) -> None:
        known = _remembered().get(self.place) if self.asked == AUTO and self.place else None
        self.now = int(known or FIRST) if self.asked == AUTO else int(self.asked)

    def batches(self, items: Sequence[Item], make: Callable[[Sequence[Item]], Made]) -> Iterator[Made]:
        """`make` of the items in order, as many at a time as fit. Raises InputError when one alone does not."""
        start = 0
        while start < len(items):
            part = items[start : start + self.now]
            try:
                made = make(part)
            except (RuntimeError, MemoryError) as cause:
                if not is_out_of_memory(cause):
                    raise
                self._smaller(len(part))
                continue
            yield made
            start += len(part)
            if self.asked == AUTO and len(part) == self.now:
                self._larger()

    def _smaller(self, failed: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if failed == 1:
            raise InputError(
                "one request alone does not fit into memory; take --dtype bfloat16, --quant 4bit, --device-map auto, or fewer sites "
                "and reads."
            )
        self.too_large = min(self.too_large, failed)
        self.now = failed // 2
        self._remember()

    def _larger(self) -> None:
        if self.now * 2 < self.too_large and self.now < MOST:
            self.now *= 2
            self._remember()

    def _remember(self) -> None:
        if self.asked == AUTO and self.place:
            write_json(_memory(), {**_remembered(), self.place: self.now}, sort_keys=True)


def _memory() -> Path:
    return cache_dir() / "batch_sizes.json"


def _remembered() -> dict[str, int]:
    try:
        return dict(json.loads(_memory().read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
