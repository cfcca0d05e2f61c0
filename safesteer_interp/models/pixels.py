"""A cap on an image's pixels, and with them on its image tokens, for processors that keep an image's own size."""

from __future__ import annotations

import math
from dataclasses import is_dataclass, replace
from typing import Any

from safesteer_interp.errors import UsageError
from safesteer_interp.models.layout import Layout


def cap_pixels(processor: Any, layout: Layout, most: int, name: str) -> None:
    """Lets a processor shrink every image to at most `most` pixels; the image keeps its proportions.

    The setting is part of the model's fingerprint, since it changes what the model sees.

    Raises UsageError for a number below the processor's smallest image, and for a processor that gives every image one size.
    """
    images = getattr(processor, "image_processor", None)
    if layout.image_size == "fixed" or images is None:
        raise UsageError(f"--max-pixels: {name} gives every image the same number of tokens, or takes none; leave the flag out.")
    size = images.size
    if layout.image_size == "area":  # Qwen-VL writes areas into fields that are called edges
        least = int(_get(size, "shortest_edge") or 1)
        if most < least:
            raise UsageError(f"--max-pixels {most} is below the smallest image of {name}, {least} pixels; give {least} or more.")
        images.size = _with_edge(size, most)
        return
    edge, tile = math.isqrt(max(most, 0)), int(_get(images.max_image_size, "longest_edge"))
    if edge < tile:
        raise UsageError(f"--max-pixels {most} is below one tile of {name}, {tile} x {tile}; give {tile * tile} or more.")
    images.size = _with_edge(size, edge)


def _get(size: Any, field: str) -> Any:
    return size.get(field) if isinstance(size, dict) else getattr(size, field, None)


def _with_edge(size: Any, edge: int) -> Any:
    """The same size with another `longest_edge`, in the form it had."""
    return replace(size, longest_edge=edge) if is_dataclass(size) and not isinstance(size, type) else {**size, "longest_edge": edge}
