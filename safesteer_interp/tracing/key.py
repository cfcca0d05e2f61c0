"""What a trace's key is made of: everything that affects its numbers, and nothing else.

Of a request that is what the model is given: the token ids of its rendered prompt, and its picture (`contents.py`). Its labels and its
id are left out, for they move no number. So are batch size, device, threads, progress and the folder: they may move a float by
rounding, never by meaning. The tracer's name is in, because tracers agree to float tolerance and not to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safesteer_interp.files import digest
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.tracing.demand import Demand
from safesteer_interp.tracing.steps import stop_ids

FORMAT = 2
"""Version of the stored form; raise it whenever the same fields would give other bytes."""
CHUNK = 64
"""Requests per shard. Fixed, so that a resumed run cuts the work where the killed one did."""


def common_fields(model: MLLM, tracer: str, *, remote: bool | str = False) -> dict[str, Any]:
    """What all traces of a model by one tracer share, JSON-ready: a store lists them under the hash of it.

    The fingerprint covers weights, config, processor and chat template. The tokens that end an answer come from the generation
    config as well, which no fingerprint covers.
    """
    return {
        "format": FORMAT,
        "chunk": CHUNK,
        "model": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": str(model.model.config._attn_implementation),
        "system_prompt": model.system_prompt,
        "stops": sorted(stop_ids(model)),
        "tracer": f"{tracer}:remote" if remote else tracer,
    }


def trace_fields(common: Mapping[str, Any], demand: Demand, contents: Sequence[str], reads: Sequence[str]) -> dict[str, Any]:
    """JSON-ready record of everything that affects a trace (see the module text); its hash is the key."""
    return {
        **common,
        "requests": list(contents),
        "sites": list(demand.sites),
        "reads": list(reads),
        "sampling": {"max_new_tokens": demand.max_new_tokens, "temperature": demand.temperature, "seed": demand.seed},
        "edits": list(demand.edits),
        "logits": demand.logits,
    }


def trace_key(fields: Mapping[str, Any]) -> str:
    """The first 32 hex digits of SHA-256 over the fields. Raises UsageError for a field that is no plain value."""
    return digest(fields)[:32]
