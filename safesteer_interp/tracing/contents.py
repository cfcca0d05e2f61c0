"""What a model is given of each request, as one digest: the rendered prompt's token ids, and the picture. Labels are no part of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.template import Frame
from safesteer_interp.requests import Request


class Contents:
    """Digests of requests under one model. They are remembered for as long as the chat template writes the same around a text."""

    def __init__(self, model: MLLM) -> None:
        self.model = model
        self._frames: dict[bool, Frame] = {}
        self._known: dict[int, tuple[Request, str]] = {}  # the request is held, so that its id stays its own

    def of(self, requests: Sequence[Request]) -> tuple[str, ...]:
        """32 hex digits per request. Raises BadRequestError, naming the request, where it could not be encoded."""
        for pictured in {request.image is not None for request in requests}:
            frame = self.model.encoder.frame(pictured, fresh=True)
            if self._frames.get(pictured) != frame:  # new, or the template prints another date than before
                self._frames[pictured] = frame
                self._known = {key: kept for key, kept in self._known.items() if (kept[0].image is not None) != pictured}
        new = list({id(request): request for request in requests if id(request) not in self._known}.values())
        encoder = self.model.encoder
        for request in new:
            self._known[id(request)] = request, _digest(request, encoder.token_ids(request))
        return tuple(self._known[id(request)][1] for request in requests)


def _digest(request: Request, ids: Sequence[int]) -> str:
    digest = hashlib.sha256(request.key().encode())  # text and pixels; samples are drawn by it, so it counts even where the ids are equal
    digest.update(b"\0ids\0" + np.asarray(ids, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]
