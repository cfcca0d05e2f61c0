"""From states to logits: the model's own, for every family, with and without the final norm and a soft cap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.tracing import requests_for

from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.head import logits, output_logits, soft_cap
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import parse_reads, parse_sites
from safesteer_interp.tracing.collecting import load_tracer

Tiny = Callable[[str], MLLM]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_states_give_the_models_own_logits(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    sites, (read,) = parse_sites(f"final_norm,resid_post.{mllm.n_layers - 1}", mllm.n_layers), parse_reads("last_prompt")
    found = load_tracer("hooks", mllm).capture(mllm.encode(requests_for(mllm)), sites, [read], logits=True)
    assert found.logits is not None
    with torch.no_grad():
        normed, stream = found.states[sites[0], read], found.states[sites[1], read]
        for ours in (logits(mllm, normed), logits(mllm, stream, normed=False), output_logits(mllm.model, normed)):
            assert torch.allclose(ours, found.logits, rtol=1e-4, atol=1e-5)


def test_a_soft_cap_is_kept(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llama")
    plain = torch.tensor([[-90.0, 0.5, 300.0]])
    assert torch.equal(soft_cap(mllm.model, plain), plain)
    monkeypatch.setattr(mllm.model.config, "final_logit_softcapping", 30.0, raising=False)
    assert torch.allclose(soft_cap(mllm.model, plain), torch.tensor([[-29.8516, 0.49995, 30.0]]), atol=1e-3)
