"""States of the eyes in a pass: read as the mean over a picture's own part of them, and how wide they are."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor, nn

from safesteer_interp.images import PilImage
from safesteer_interp.models.eyes import Parts, as_parts
from safesteer_interp.models.layout import submodule
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.tower_layers import eye_path, vision_layers
from safesteer_interp.requests import Request
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.prefix import rope_state
from safesteer_interp.types import States

_WIDTHS: WeakKeyDictionary[nn.Module, dict[Site, int]] = WeakKeyDictionary()


def mean_of_pictures(parts: Parts, rows: Int[Tensor, " parts"], batch: int, skipped: int) -> States:
    """Mean over all tokens of each row's parts but the first `skipped` of each part; NaN for rows without a picture."""
    wide = torch.promote_types(parts.dtype, torch.float32)
    sums = parts[:, skipped:].sum(1, dtype=wide)
    rows = rows.to(parts.device)
    totals = torch.zeros(batch, parts.shape[2], dtype=wide, device=parts.device).index_add_(0, rows, sums)
    counts = torch.bincount(rows, minlength=batch)[:, None] * (parts.shape[1] - skipped)
    return (totals / counts).to(parts.dtype)


@torch.no_grad()
def width_of(mllm: MLLM, site: Site) -> int:
    """Width of a site's states: that of the residual stream, in the eyes measured once, by one short prompt with a picture."""
    if not site.in_eyes:
        return mllm.width
    if mllm.model not in _WIDTHS:
        places = [Site(SiteKind.VISION, n) for n in range(len(vision_layers(mllm.model, mllm.layout)))] + [Site(SiteKind.PROJECTOR)]
        found: dict[Site, int] = {}
        handles = []
        for place in places:

            def keep(module: Any, args: Any, output: Any, place: Site = place) -> None:
                found[place] = int(as_parts(output[0] if isinstance(output, tuple) else output).shape[-1])

            handles.append(submodule(mllm.model, eye_path(mllm.model, mllm.layout, place)).register_forward_hook(keep))
        asked = Request("What is this?", PilImage(Image.linear_gradient("L").resize((96, 64))), id="width of the eyes")
        try:
            with mllm.lock, rope_state(mllm.model):
                mllm.model(**mllm.encode([asked]).to(mllm.device).inputs, use_cache=False, logits_to_keep=1)
        finally:
            for handle in handles:
                handle.remove()
        _WIDTHS[mllm.model] = found
    eye_path(mllm.model, mllm.layout, site)  # says so when there is no such place
    return _WIDTHS[mllm.model][site]
