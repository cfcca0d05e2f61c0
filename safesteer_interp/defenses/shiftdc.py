"""ShiftDC (arXiv 2502.13095): of what a picture does to the last prompt token, only the part along the safety direction is taken back.

For a request with a picture the model captions it; the text twin is the request with the caption. m = h(picture, q) - h(twin) at each
layer, s = mean h(safe text) - mean h(unsafe text), and h' = h - alpha (m.s / |s|^2) s, once, in the prompt pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safesteer_interp.defenses.asking import ask, with_text
from safesteer_interp.defenses.defense import Settings, StagedDefense
from safesteer_interp.defenses.shifts import move_edit, prompt_states, vector
from safesteer_interp.defenses.training import layer_sites, layer_trace, rows_of
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site
from safesteer_interp.tracing.origin import Origin
from safesteer_interp.tracing.trace import Traced
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.types import Vector
from safesteer_interp.vectors.direction import mean_difference

CAPTION = "Based on the given Request, describe the image. Request: {query}"
TWIN = "{query} Image Caption: {caption}"
"""Of the released code (Renovamen/ShiftDC)."""


@dataclass(frozen=True, eq=False)
class ShiftDC(StagedDefense):
    """Shift disentanglement and calibration. Requests without a picture are answered as they are, to the bit.

    Not in it: the sentence without regard to safety that the released run puts before every query; it belongs to the attack.
    """

    name = "shiftdc"
    trained = True
    prepares = True
    safety: Mapping[Site, Vector]
    """s at each layer [d]: towards safe."""
    origin: Origin
    alpha: float = 1.0
    caption_tokens: int = 128

    @classmethod
    def build(cls, mllm: MLLM, training: Sequence[Request] = (), *, first: int = -1, last: int = -1, **options: Any) -> ShiftDC:
        """`first`, `last`: the layers; -1: from the middle to the last, as in the released code."""
        return cls.from_trace(mllm, layer_trace(mllm, training), first=first, last=last, **options)

    @classmethod
    def from_trace(cls, mllm: MLLM, trace: Traced, *, first: int = -1, last: int = -1, **options: Any) -> ShiftDC:
        """s from the training requests of text."""
        n = mllm.n_layers
        sites = layer_sites(mllm, n // 2 if first < 0 else first, n - 1 if last < 0 else last)
        masks = [rows_of(trace, attacks=(Attack.TEXT,), harmful=side, what="fit ShiftDC's safety direction") for side in (False, True)]
        safety = {site: vector(mean_difference(trace.rows(site), *masks)) for site in sites}
        return cls(safety, Origin.of_trace(trace, "resid_post", "last_prompt"), **options)

    def guard(self, mllm: MLLM) -> None:
        """Raise UsageError when the directions belong to another model."""
        self.origin.guard("safety direction of ShiftDC", mllm)
        width = len(next(iter(self.safety.values())))
        if width != mllm.width:
            raise UsageError(f"the safety direction of ShiftDC has width {width} but {mllm.name} has {mllm.width}.")

    def edits_each(self, mllm: MLLM, requests: Sequence[Request], settings: Settings) -> list[tuple[Edit, ...]]:
        """For each request with a picture, what its own shift asks for; none for text."""
        self.guard(mllm)
        places = [i for i, request in enumerate(requests) if request.image is not None]
        found: list[tuple[Edit, ...]] = [()] * len(requests)
        if not places:
            return found
        some = [requests[i] for i in places]
        captions = ask(mllm, some, [CAPTION.replace("{query}", r.text) for r in some], settings, self.caption_tokens)
        twins = [
            with_text(mllm, r, TWIN.replace("{query}", r.text).replace("{caption}", caption), blind=True)
            for r, caption in zip(some, captions, strict=True)
        ]
        sites = list(self.safety)
        shown, told = (prompt_states(mllm, asked, sites, settings.batch_size) for asked in (some, twins))
        for row, place in enumerate(places):
            moves = {site: self.correction(site, shown[k, row] - told[k, row]) for k, site in enumerate(sites)}
            found[place] = (move_edit(moves, "shiftdc"),)
        return found

    def correction(self, site: Site, shift: np.ndarray) -> Vector:
        """-alpha (m.s / |s|^2) s [d] for a shift m [d] at a layer."""
        s = self.safety[site].double().numpy()
        return vector(-self.alpha * float(shift @ s) / float(s @ s) * s)
