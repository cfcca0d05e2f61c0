"""The TransformerLens tracer: the bridge's named hook points over the shared decoding loop. The only file that names it.

The bridge rewrites the modules of the model it is given and forces eager attention, so it gets a twin (same weights, own module
tree). It is built with `build_bridge_from_module`, never with `boot_transformers`, which reloads tokenizers and may run
`pip install torchvision`; for the same reason its check for torchvision is passed over: our processors work without it. Passes go
through the wrapped model's own forward, as in `bridge.hf_generate`, because `bridge.generate` crashes on Qwen-VL with images.

`TransformerLensTracer.bridge` is the TransformerBridge itself, for attention patterns, per-head results and logit attribution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.hooks import visiting
from safesteer_interp.tracing.steps import Pass, SteppedTracer, twin
from safesteer_interp.types import Logits

_LAYERED = {SiteKind.RESID_POST: "hook_resid_post", SiteKind.HEADS: "attn.hook_z", SiteKind.ATTN_OUT: "hook_attn_out",
            SiteKind.MLP_OUT: "hook_mlp_out"}  # fmt: skip
_SAME_MODULES = {"SmolVLMForConditionalGeneration": "Idefics3ForConditionalGeneration"}
"""Architectures without an adapter of their own whose module tree is that of one that has."""


def hook_name(site: Site) -> str:
    """The bridge's name of a site; `hook_attn_out` and `hook_mlp_out` are what is added to the stream (after Gemma's post-norms)."""
    if site.layer is not None:
        return f"blocks.{site.layer}.{_LAYERED[site.kind]}"
    return "blocks.0.hook_resid_pre" if site.kind is SiteKind.EMBED else "ln_final.hook_out"


@contextmanager
def _without_library_check(adapter: Any) -> Iterator[None]:
    check = adapter._check_required_libraries
    adapter._check_required_libraries = lambda self: None
    try:
        yield
    finally:
        adapter._check_required_libraries = check


class TransformerLensTracer(SteppedTracer):
    """Hook points of TransformerLens' bridge; `load_tracer` refuses a family it has no adapter for (PaliGemma)."""

    name = "transformer_lens"

    def __init__(self, mllm: MLLM) -> None:
        super().__init__(mllm)
        from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        model = twin(mllm.model)
        model.set_attn_implementation("eager")  # the bridge's attention hooks need it
        architecture = type(mllm.model).__name__
        with _without_library_check(ArchitectureAdapter):
            self.bridge = build_bridge_from_module(
                model, _SAME_MODULES.get(architecture, architecture), hf_config=model.config, model_name=mllm.name
            )

    @property
    def model(self) -> PreTrainedModel:
        return self.mllm.model

    def forward(self, run: Pass) -> Logits:
        hooks = [(hook_name(site), _hook(site, run)) for site in run.places if not site.in_eyes]
        eyes = tuple(site for site in run.places if site.in_eyes)  # the bridge names no layers of a tower: hooks on its own modules
        with visiting(self.bridge.original_model, self.mllm.layout, eyes, run.visit), self.bridge.hooks(fwd_hooks=hooks):
            return self.bridge.original_model(**run.inputs).logits[:, -1]


def _hook(site: Site, run: Pass) -> Callable[..., Tensor | None]:
    def visit(value: Tensor, hook: Any) -> Tensor | None:
        return run.visit(site, value)

    def visit_heads(value: Tensor, hook: Any) -> Tensor | None:
        changed = run.visit(site, value.flatten(2))  # the bridge keeps the heads apart: [batch, sequence, heads, width of one]
        return None if changed is None else changed.reshape(value.shape)

    return visit_heads if site.kind is SiteKind.HEADS else visit
