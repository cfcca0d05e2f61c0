"""Which rows of a batch show a picture with something in it, told from what a processor made of them: pixels and placeholders.

`images.shows_something` says it of a picture; inside `model.generate` there is none, only the tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from safesteer_interp.errors import SafeSteerWarning

BLANK = 0.004
"""Largest difference within a channel of a blank picture: a step of one in 255 is 0.008 or more after normalisation."""


def rows_showing(config: Any, input_ids: Tensor, inputs: Mapping[str, Any]) -> list[bool]:
    """Whether each row of input_ids [batch, S] shows more than one colour per picture; False for rows without a picture.

    `inputs` are what `generate` hands over, `config` is the model's. Where pictures cannot be seen (transformers may have encoded them
    already) or not be matched with rows, every row with a picture counts as showing something, with a warning.
    """
    pixels, encoded = inputs.get("pixel_values"), inputs.get("mm_encoder_outputs") or {}
    if pixels is None and encoded.get("image") is None:
        return [False] * len(input_ids)
    token = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    pictured = (input_ids == token).any(1).tolist() if token is not None else [True] * len(input_ids)
    showing = None if pixels is None else _showing(pixels, inputs.get("image_grid_thw"))
    if showing is not None and len(showing) == sum(pictured):
        each = iter(showing)
        return [has and next(each) for has in pictured]
    if showing is not None and len(showing) == len(pictured):  # padded to one picture a row
        return [has and shows for has, shows in zip(pictured, showing, strict=True)]
    if showing is None or any(showing) != all(showing):
        warnings.warn(
            "blank pictures cannot be told from others here, so that every row with a picture is held to the threshold of pictures; say "
            "which show something with generate(..., shows=[True, False, ...]), or use SafeSteer.respond.",
            SafeSteerWarning,
            stacklevel=3,
        )
        return pictured
    return [has and all(showing) for has in pictured]


def _showing(pixels: Tensor, grid: Tensor | None) -> list[bool] | None:
    """Whether each picture shows something: [pictures, (tiles,) channels, height, width], or patches and their grid; else None."""
    if pixels.ndim in (4, 5):
        varies = pixels.amax((-1, -2)) - pixels.amin((-1, -2)) > BLANK
        return [bool(v) for v in varies.flatten(1).any(1)]
    if pixels.ndim == 2 and grid is not None and int(grid.prod(-1).sum()) == len(pixels):
        patches = [part.reshape(len(part), 3, -1) for part in pixels.split(grid.prod(-1).tolist())]
        return [bool((p.amax((0, 2)) - p.amin((0, 2)) > BLANK).any()) for p in patches]
    return None
