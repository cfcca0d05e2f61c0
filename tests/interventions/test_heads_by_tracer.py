"""A head patched by `replay` is the same head of nnsight's modules and of TransformerLens' `hook_z`, on every family that has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.tracing import NoiseImage, close

from safesteer_interp.interventions import Head, Patch, record, replay
from safesteer_interp.interventions.alignment import matched
from safesteer_interp.interventions.replaying import n_heads
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request
from safesteer_interp.tracing.engines import load_tracer
from safesteer_interp.tracing.nnsight import NnsightTracer
from safesteer_interp.tracing.prefix import Feed, rope_state
from safesteer_interp.tracing.transformer_lens import TransformerLensTracer

QUICK = ("llava", "gemma3")
LAYER, ROLES = 1, ("user", "last")


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in QUICK else pytest.mark.slow) for f in FAMILIES])
def test_a_head_is_the_same_head_everywhere(tiny: Callable[[str], MLLM], family: str) -> None:
    mllm = tiny(family)
    image = {"image": NoiseImage(1), "attack": Attack.SD} if mllm.takes_images else {"attack": Attack.TEXT}
    receiver, donor = (
        record(mllm, Request(id=text, text=text, harmful=False, **image)) for text in ("name a bird", "name two big grey ships")
    )
    head = n_heads(mllm) - 1
    want = replay(mllm, receiver, [Patch((Head(LAYER, head),), ROLES)], donor=donor)
    assert not close(want, replay(mllm, receiver, [Patch((Head(LAYER, 0),), ROLES)], donor=donor))
    mine, theirs = matched(donor.roles, receiver.roles, ROLES)
    width = donor.heads[LAYER].shape[-1] // n_heads(mllm)
    new = donor.heads[LAYER][theirs, head * width : (head + 1) * width]

    def swapped(z: torch.Tensor) -> torch.Tensor:
        flat = z.reshape(*z.shape[:2], -1).clone()
        flat[0, mine, head * width : (head + 1) * width] = new
        return flat.reshape(z.shape)

    def inputs() -> dict[str, Any]:
        return Feed(mllm.model, mllm.encode([receiver.request]), cached=False).prompt()

    engine = load_tracer("nnsight", mllm)
    assert isinstance(engine, NnsightTracer)
    path = [*mllm.layout.layers.split("."), str(LAYER), mllm.layout.attention, "o_proj"]
    module: Any = engine._envoy
    for part in path:
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    with torch.no_grad(), rope_state(mllm.model):
        with engine._envoy.trace(**inputs()):
            module.input = swapped(module.input)
            got = engine.nnsight.save(engine._envoy.output.logits[:, -1])
        assert close(want, got.float())
        if mllm.layout.bridge:
            bridged = load_tracer("transformer_lens", mllm)
            assert isinstance(bridged, TransformerLensTracer)
            with bridged.bridge.hooks(fwd_hooks=[(f"blocks.{LAYER}.attn.hook_z", lambda z, hook: swapped(z))]):
                got = bridged.bridge.original_model(**inputs()).logits[:, -1]
            assert close(want, got.float())
