"""A head patched by `replay` is the same head of whole forwards by every tracer (nnsight's modules, TransformerLens' `hook_z`), on every
family that has them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tracing import NoiseImage, close

from safesteer_interp.interventions import Head, Patch, Recording, patched, record, replay
from safesteer_interp.interventions.replaying import n_heads
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import Site

QUICK = ("llava", "gemma3")
LAYER, ROLES = 1, ("user", "last")


def pair(mllm: MLLM) -> tuple[Recording, Recording]:
    """Receiver and donor, texts of unequal length."""
    image = {"image": NoiseImage(1), "attack": Attack.SD} if mllm.takes_images else {"attack": Attack.TEXT}
    made = [Request(id=text, text=text, harmful=False, **image) for text in ("name a bird", "name two big grey ships")]
    return record(mllm, made[0]), record(mllm, made[1])


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAMILIES])
def test_a_head_is_the_same_head_everywhere(tiny: Callable[[str], MLLM], family: str) -> None:
    mllm = tiny(family)
    receiver, donor = pair(mllm)
    last = n_heads(mllm) - 1
    width = donor.heads[LAYER].shape[-1] // n_heads(mllm)
    seen: list[int] = []

    def halfway(old: torch.Tensor, new: torch.Tensor | None) -> torch.Tensor:
        assert new is not None and new.shape == old.shape
        seen.append(old.shape[-1])
        return (old + new) / 2

    patches = [
        Patch((Head(LAYER, last),), ROLES),
        Patch((Head(LAYER, 0),), ROLES),
        Patch((Head(LAYER, 0), Head(LAYER, last)), ROLES),  # two of one layer in a row
        Patch((Head(LAYER, last), Site.parse(f"attn_out.{LAYER + 1}"), Head(0, 0)), ROLES),
        Patch((Head(LAYER, last),), ("last",), halfway),
        Patch((Site.parse(f"mlp_out.{LAYER}"),), ROLES),
    ]
    want = replay(mllm, receiver, patches, donor=donor)
    assert not any(close(want[:1], other[None]) for other in want[1:])
    for tracer in ("hooks", "nnsight", *(("transformer_lens",) if mllm.layout.bridge else ())):
        seen.clear()
        n = len(patches)
        got = patched(mllm, [receiver.request] * n, patches, [donor.request] * n, tracer=tracer).logits
        assert got is not None and close(want, got), tracer
        assert seen == [width], "a rewrite is given the columns of its head alone"


@pytest.mark.parametrize("tracer", ["hooks", "nnsight", "transformer_lens"])
def test_rows_of_unequal_length_keep_their_own_heads(tiny: Callable[[str], MLLM], tracer: str) -> None:
    mllm = tiny("llava")
    short, long = pair(mllm)
    patches = [Patch((Head(LAYER, 0),), ROLES), Patch((Head(LAYER + 1, 1),), ROLES)]
    got = patched(mllm, [short.request, long.request], patches, [long.request, short.request], tracer=tracer).logits
    want = torch.cat([replay(mllm, short, patches[:1], donor=long), replay(mllm, long, patches[1:], donor=short)])
    assert got is not None and close(want, got)
