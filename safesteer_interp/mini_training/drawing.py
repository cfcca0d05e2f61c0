"""Training data drawn ahead of the training, in worker processes: what is drawn depends on seed and place alone, never on how many draw.

Pictures are drawn by PIL, a page full of words in 6 ms: a GPU would wait for one process, and two cores train with one and draw with
the other. PyTorch's DataLoader does it: place k of the stream is drawn whole by one worker and arrives in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

Drawn = TypeVar("Drawn")


class _Places(Dataset[Any], Generic[Drawn]):
    """Place k holds `draw(k)`."""

    def __init__(self, draw: Callable[[int], Drawn], end: int) -> None:
        self.draw, self.end = draw, end

    def __len__(self) -> int:
        return self.end

    def __getitem__(self, place: int) -> Drawn:
        return self.draw(place)


def _as_drawn(item: Drawn) -> Drawn:
    return item


def drawn_ahead(draw: Callable[[int], Drawn], start: int, end: int, workers: int = 0) -> Iterator[Drawn]:
    """`draw(start)`, ..., `draw(end - 1)`, in order, by `workers` processes that stay a few places ahead; in this one for none.

    Workers are forks and must leave the GPU alone.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers that ran in threads must not be forked with them
    # places are handed on as they were drawn: as tensors they would go through shared memory, of which containers have little
    loader: DataLoader[Any] = DataLoader(
        _Places(draw, end),
        sampler=range(start, end),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_drawn,
        prefetch_factor=2 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    yield from loader
