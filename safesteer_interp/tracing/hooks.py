"""The plain torch tracer: forward hooks on the untouched model. The yardstick of parity and speed (1.000 x a bare forward)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from safesteer_interp.models.eyes import as_parts, as_was
from safesteer_interp.models.layout import Layout, submodule
from safesteer_interp.models.tower_layers import eye_path
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.steps import Pass, SteppedTracer
from safesteer_interp.types import Hidden, Logits

Visit = Callable[[Site, Hidden], "Hidden | None"]
"""Told a site and its state; returns the state to put back, or None to leave it (`Pass.visit`, or a decoding policy's own)."""


def module_path(layout: Layout, site: Site) -> str:
    """Dotted path of the module whose output is the site, or whose *input* is (`Site.is_input`): decoder layer 0 for `embed`, the output
    projection of a layer for its heads.

    Sites of the eyes lie where each tower has them: `path_of`.
    """
    if site.kind is SiteKind.FINAL_NORM:
        return layout.final_norm
    layer = f"{layout.layers}.{site.layer or 0}"
    if site.kind is SiteKind.HEADS:
        return f"{layer}.{layout.attention}.o_proj"
    if site.kind is SiteKind.ATTN_OUT:
        return f"{layer}.{layout.attn_adds or layout.attention}"
    if site.kind is SiteKind.MLP_OUT:
        return f"{layer}.{layout.mlp_adds or layout.mlp}"
    return layer


def path_of(model: nn.Module, layout: Layout, site: Site) -> str:
    """As `module_path`, of any site. Raises InputError for a layer that the vision tower does not have."""
    return eye_path(model, layout, site) if site.in_eyes else module_path(layout, site)


def _on_input(site: Site, visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        changed = visit(site, args[0] if args else kwargs["hidden_states"])
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    return hook


def _on_output(site: Site, visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return seen(site, output, visit)
        changed = seen(site, output[0], visit)
        return None if changed is None else (changed, *output[1:])

    return hook


def seen(site: Site, state: Any, visit: Visit) -> Any:
    """What `visit` puts back at a site, or None. The eyes' states are shown as [parts, tokens, width] and changed where they lie, since
    transformers may have laid them aside already for the layer of the tower that the projector is given."""
    if not site.in_eyes:
        return visit(site, state)
    changed = visit(site, as_parts(state))
    if changed is not None:
        state.copy_(as_was(changed, state))
    return None


@contextmanager
def visiting(model: nn.Module, layout: Layout, sites: tuple[Site, ...], visit: Visit) -> Iterator[None]:
    """While open, every forward of the model hands the states at the sites to `visit`. Hooks are removed however it ends.

    Raises InputError when the layout names a module that does not exist.
    """
    with ExitStack() as stack:
        for site in sites:
            module = submodule(model, path_of(model, layout, site))
            if site.is_input:
                handle = module.register_forward_pre_hook(_on_input(site, visit), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_on_output(site, visit))
            stack.callback(handle.remove)
        yield


class HooksTracer(SteppedTracer):
    """Forward hooks on the model itself; nothing is left on it afterwards."""

    name = "hooks"

    @property
    def model(self) -> PreTrainedModel:
        return self.mllm.model

    def forward(self, run: Pass) -> Logits:
        with visiting(self.model, self.mllm.layout, run.places, run.visit):
            return self.model(**run.inputs).logits[:, -1]
