"""Remote runs: states come from NDIF, and whatever would run the model here is skipped with a sentence instead.

On NDIF a job gives states of prompts and of greedy answers. Findings that sample answers, steer them, patch or take gradients run the model
themselves; what they would compute here would be computed on this machine, for a model that is meant to be elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from safesteer_interp.errors import NotApplicableError
from safesteer_interp.tracing.spec import TraceSpec

ANSWERS = "it needs answers or passes of the model itself, and a remote run (--remote) only reads states; run it where the model is."


def refused(specs: Sequence[TraceSpec]) -> str:
    """Why traces cannot be had remotely; empty where they can."""
    if any(spec.temperature > 0 for spec in specs):
        return "it reads states of sampled answers, and remote traces choose tokens greedily; run it where the model is."
    return ""


@contextmanager
def running_nowhere(model: Any) -> Iterator[None]:
    """While open, a pass through the model or any of its layers raises NotApplicableError.

    Its head and norm may be applied to states, where their weights are here.
    """
    from safesteer_interp.models.described import is_described

    def refuse(module: object, arguments: object) -> None:
        raise NotApplicableError(ANSWERS)

    parts = (model.model, *model.layers, *((model.final_norm, model.lm_head) if is_described(model) else ()))
    handles = [part.register_forward_pre_hook(refuse) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
