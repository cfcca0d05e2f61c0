"""Where a vision tower keeps its layers, found by its structure."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from safesteer_interp.errors import InputError
from safesteer_interp.models.layout import Layout, submodule
from safesteer_interp.sites import Site, SiteKind

_PATHS: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


def vision_layers(model: nn.Module, layout: Layout) -> tuple[str, ...]:
    """Dotted paths of the tower's layers in order: those it names itself (`layer_names`), else its longest list of attention blocks.

    Empty for a model without eyes, and for a tower in which no layers are found.
    """
    if layout.vision_tower is None:
        return ()
    if model not in _PATHS:
        tower = submodule(model, layout.vision_tower)
        _PATHS[model] = tuple(f"{layout.vision_tower}.{name}" for name in getattr(tower, "layer_names", None) or _found(tower))
    return _PATHS[model]


def _found(tower: nn.Module) -> list[str]:
    lists = [
        (name, blocks)
        for name, blocks in tower.named_modules()
        if isinstance(blocks, nn.ModuleList) and len(blocks) and any("att" in child for child, _ in blocks[0].named_children())
    ]
    name, blocks = max(lists, key=lambda item: len(item[1]), default=("", nn.ModuleList()))
    return [f"{name}.{number}" for number in range(len(blocks))]


def eye_path(model: nn.Module, layout: Layout, site: Site) -> str:
    """Dotted path of the module whose output is a site of the eyes. Raises InputError for a model that has no such place."""
    paths = vision_layers(model, layout)
    if site.kind is SiteKind.PROJECTOR and layout.projector is not None:
        return layout.projector
    if site.kind is SiteKind.VISION and site.layer is not None and site.layer < len(paths):
        return paths[site.layer]
    there = f"vision.0 to vision.{len(paths) - 1} and projector" if paths else "no layers in its tower" if layout.projector else "no eyes"
    raise InputError(f'site "{site}" does not exist: the family "{layout.family}" has {there} here.')
