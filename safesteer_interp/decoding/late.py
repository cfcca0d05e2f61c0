"""Edits that touch nothing before the last prompt token: the prompt is read once, and its last token again under each of them.

Every other key and value of the prompt is what it was, so that a layer, a dose or a random direction more costs one token instead of a
prompt with its image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.decoding.cache import GrowingLayer
from safesteer_interp.decoding.editing import Editing
from safesteer_interp.decoding.policies import PLAIN
from safesteer_interp.decoding.prefix import Prefix, advance, prefill
from safesteer_interp.decoding.prompt_cache import read_prompts
from safesteer_interp.decoding.sharing import Way, by_length
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.types import States


def can_reread(mllm: MLLM, prefix: Prefix) -> bool:
    """Whether the last token can be taken back: no earlier token looks at it (PaliGemma's do), and every layer's cache can be cut."""
    return mllm.layout.causal and all(type(layer) is GrowingLayer for layer in prefix.cache.layers)


@torch.no_grad()
def reread(
    mllm: MLLM, prefix: Prefix, batch: Encoded, rows: Int[Tensor, " answers"], editing: Editing, member: Int[Tensor, " answers"]
) -> States:
    """States [answers, d] after the final norm of the last prompt token, read again in its own place under the edits of each answer's way.

    `prefix` has one row per answer, and `rows` says which prompt of the batch each has. Its last cache entry is replaced.
    """
    prefix.cache.crop(-1)
    prefix.mask, prefix.position = prefix.mask[:, :-1], prefix.position - 1
    with editing.rereading(batch, rows, member):
        return advance(mllm.model, prefix, batch.input_ids[rows.to(batch.input_ids.device), -1])


@torch.no_grad()
def first_states(
    mllm: MLLM, requests: Sequence[Request], ways: Sequence[Sequence[Edit]], *, batch_size: int = 48
) -> Float[Tensor, "ways n d"]:
    """States after the final norm that the first answer token is predicted from, float32 on the CPU, under each set of edits.

    Where no edit of a set touches anything before the last prompt token (`Edit.late`), the prompts are read once for all such sets.
    """
    each = [Way(PLAIN, tuple(edits)) for edits in ways]
    editing = Editing(mllm, each)
    found = torch.empty(len(each), len(requests), mllm.width)
    for places in by_length(requests, batch_size):
        batch = mllm.encode([requests[i] for i in places]).to(mllm.device)
        rows = torch.arange(len(places))
        kept: tuple[Prefix, States] | None = None
        for number, way in enumerate(each):
            member = torch.full((len(places),), number)
            late = all(edit.late for edit in way.edits)
            if late and kept is None:
                kept = read_prompts(mllm, batch)
            if not way.edits and kept is not None:
                states = kept[1]
            elif late and kept is not None and can_reread(mllm, kept[0]):
                states = reread(mllm, kept[0], batch, rows, editing, member)
            else:
                with editing.reading(batch, member):
                    _, states = prefill(mllm.model, batch.inputs)
            found[number, places] = states.float().cpu()
    return found
