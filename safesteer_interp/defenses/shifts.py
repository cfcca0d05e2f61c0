"""What several defenses measure before they answer: the state of a request's last prompt token, and that of another version of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Role, Site
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.tracing.tracer import At, Edit
from safesteer_interp.types import Hidden, StateStack, Vector


def prompt_states(mllm: MLLM, requests: Sequence[Request], sites: Sequence[Site], batch_size: int) -> StateStack:
    """States [sites, n, d] of the last prompt token of each request, unedited; nothing is stored."""
    trace = collect(mllm, requests, sites=sites, reads="last_prompt", batch_size=batch_size, store=None, progress=False)
    return trace.stack("last_prompt", sites)


def move_edit(moves: Mapping[Site, Vector], name: str, *, answer: bool = False) -> Edit:
    """h + move at every site given, at the last prompt token; with `answer` at every answer token as well."""
    sites = tuple(moves)
    digest = hashlib.sha256(f"{name.split()[0]}{answer}".encode())
    for site, move in moves.items():
        digest.update(f"\0{site}\0".encode() + move.detach().cpu().float().contiguous().numpy().tobytes())

    def function(h: Hidden, at: At) -> Hidden:
        if at.step and not answer:
            return h
        touched: Tensor = at.roles == int(Role.GENERATED) if at.step else at.last_prompt
        moved = (h.float() + moves[at.site].to(h.device)).to(h.dtype)
        return torch.where(touched[..., None].to(h.device), moved, h)

    return Edit(sites, function, name, digest.hexdigest()[:32], last_step=None if answer else 0, late=True)


def vector(values: np.ndarray) -> Vector:
    """An array [d] as float32 tensor."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
