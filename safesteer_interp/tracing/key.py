"""What a trace's key is made of: everything that affects its numbers or its index, and nothing else.

Batch size, device, threads, progress and the folder are left out on purpose: they may move a float by rounding, never by meaning.
The tracer's name is in, because tracers agree to float tolerance and not to the bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, Site
from safesteer_interp.tracing.tracer import Edit, Sampling

FORMAT = 1
"""Version of the stored form; raise it whenever the same fields would give other bytes."""
CHUNK = 64
"""Requests per shard. Fixed, so that a resumed run cuts the work where the killed one did."""


def trace_fields(
    model: MLLM,
    requests: Sequence[Request],
    sites: Sequence[Site],
    reads: Sequence[Read],
    *,
    tracer: str,
    sampling: Sampling,
    edits: Sequence[Edit],
    logits: bool,
    stored: bool = True,
) -> dict[str, Any]:
    """JSON-ready record of everything that affects a trace (see the module text); its hash is the key.

    The model's fingerprint covers weights, config, processor and chat template. Sampling fields that do nothing (temperature and
    seed of a greedy run) are normalised. Raises UsageError for an edit without a `key` when the trace is to be
    stored.
    """
    for edit in edits:
        if stored and not edit.key:
            raise UsageError(
                f'edit "{edit.name}" has no key, so its trace cannot be stored; give Edit(key=...) a string that changes '
                "whenever the function's result does, or collect with store=None."
            )
    steps = max((read.step or 0 for read in reads), default=0)
    greedy = sampling.temperature <= 0
    return {
        "format": FORMAT,
        "chunk": CHUNK,
        "model": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(model.model.config._attn_implementation),
        "system_prompt": model.system_prompt,
        "requests": [request_fields(request) for request in requests],
        "sites": [str(site) for site in sites],
        "reads": [str(read) for read in reads],
        "tracer": tracer,
        "sampling": {
            **asdict(sampling),
            "max_new_tokens": max(sampling.max_new_tokens, steps),
            "temperature": 0.0 if greedy else sampling.temperature,
            "seed": 0 if greedy else sampling.seed,
        },
        "edits": [{"name": e.name, "key": e.key, "sites": [str(site) for site in e.sites]} for e in edits],
        "logits": logits,
    }


def request_fields(request: Request) -> list[Any]:
    """What of a request enters the key: its content (text and pixels) and the labels the index shows."""
    labels = (request.pair, request.dataset, request.scenario, str(request.attack), request.harmful, str(request.split))
    return [request.id, request.key(), *labels]


def trace_key(fields: dict[str, Any]) -> str:
    """The first 32 hex digits of SHA-256 over the fields."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]
