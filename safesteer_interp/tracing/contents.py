"""What a model is given of each request, as one digest: the rendered prompt's token ids, and the picture. Labels are no part of it.

A picture on disk may be replaced at any time, so a digest is used again only while the request's key, which looks at the file, is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from safesteer_interp.errors import BadRequestError, InputError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.template import Frame
from safesteer_interp.requests import Request


class Contents:
    """Digests of requests under one model, remembered while the chat template writes the same around a text and the picture is the same."""

    def __init__(self, model: MLLM) -> None:
        self.model = model
        self._frames: dict[bool, Frame] = {}
        self._known: dict[int, tuple[Request, str, str]] = {}
        """Request (held, so that its id stays its own), key and digest."""

    def of(self, requests: Sequence[Request]) -> tuple[str, ...]:
        """32 hex digits per request. Raises BadRequestError, naming the request, where it or its picture cannot be read."""
        for pictured in {request.image is not None for request in requests}:
            frame = self.model.encoder.frame(pictured, fresh=True)
            if self._frames.get(pictured) != frame:  # new, or the template prints another date than before
                self._frames[pictured] = frame
                self._known = {key: kept for key, kept in self._known.items() if (kept[0].image is not None) != pictured}
        encoder = self.model.encoder
        for place, request in {id(request): request for request in requests}.items():
            known = self._known.get(place)
            if known is None or known[1] != _key(request):
                ids, key = encoder.token_ids(request), _key(request)
                self._known[place] = request, key, _digest(key, ids)
        return tuple(self._known[id(request)][2] for request in requests)


def _key(request: Request) -> str:
    """Key of text and pixels; samples are drawn by it, so it counts even where the ids are equal. Kept on a request that cannot change."""
    try:
        return request.key()
    except InputError as cause:
        raise BadRequestError(f'request "{request.id}": {cause}', request.id) from None


def _digest(key: str, ids: Sequence[int]) -> str:
    digest = hashlib.sha256(key.encode())
    digest.update(b"\0ids\0" + np.asarray(ids, dtype="<i8").tobytes())
    return digest.hexdigest()[:32]
