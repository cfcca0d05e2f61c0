"""What can be done to one prompt pass: a patch writes states, a knock-out keeps tokens from looking at others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from safesteer_interp.errors import UsageError
from safesteer_interp.interventions.alignment import ROLES, check_roles
from safesteer_interp.sites import Site, SiteKind

PATCHABLE = (SiteKind.VISION, SiteKind.PROJECTOR, SiteKind.EMBED, SiteKind.RESID_POST, SiteKind.ATTN_OUT, SiteKind.MLP_OUT)


@dataclass(frozen=True, order=True)
class Head:
    """What one attention head hands to the output projection (its z), e.g. `head.12.3`: layer 12, head 3, both from 0."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"head.{self.layer}.{self.head}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Raises UsageError for another notation."""
        found = re.fullmatch(r"head\.(\d+)\.(\d+)", text.strip())
        if found is None:
            raise UsageError(f'head "{text}" is not written as "head.<layer>.<head>", e.g. "head.12.3".')
        return cls(int(found[1]), int(found[2]))


Place: TypeAlias = Site | Head
Rewrite = Callable[[Float[Tensor, "k d"], Float[Tensor, "k d"] | None], Float[Tensor, "k d"]]
"""(receiver's states, donor's states at the matched tokens or None) -> the states to put there; pure."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Write the donor's states, or a function of both, at some places and token roles of the receiver's pass."""

    places: tuple[Place, ...]
    """Several make a window: all are written in one pass."""
    roles: tuple[str, ...] = ROLES
    """All of them: everything is patched."""
    rewrite: Rewrite | None = None
    """None: the donor's states replace the receiver's."""

    def __post_init__(self) -> None:
        if not self.places:
            raise UsageError("a patch needs at least one place, e.g. resid_post.12.")
        check_roles(self.roles)
        for place in self.places:
            if isinstance(place, Site) and place.kind not in PATCHABLE:
                raise UsageError(f'site "{place}" cannot be patched; use {", ".join(PATCHABLE)} or a head.')
            if isinstance(place, Site) and place.in_eyes and "image" not in self.roles:
                raise UsageError(f'{place} holds a picture and no text; patch it at the role "image".')

    @property
    def after_layers(self) -> bool:
        """Whether it writes between layers only, and never inside of one."""
        return all(isinstance(place, Site) and place.kind in (SiteKind.EMBED, SiteKind.RESID_POST) for place in self.places)

    @property
    def first_layer(self) -> int:
        """The first layer that has to be computed again."""
        return min(_computed_from(place) for place in self.places)


@dataclass(frozen=True)
class Knockout:
    """Tokens of the `target` roles do not attend to tokens of the `source` roles in some layers (they always see themselves).

    As in arXiv 2304.14767: attention weights of the blocked pairs are 0, the others are normalised anew.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        check_roles(self.source)
        check_roles(self.target)
        if not self.layers:
            raise UsageError("a knock-out needs at least one layer.")

    @property
    def first_layer(self) -> int:
        return min(self.layers)


Intervention: TypeAlias = Patch | Knockout


def _computed_from(place: Place) -> int:
    if isinstance(place, Head):
        return place.layer
    if place.layer is None:
        return 0
    return place.layer + (place.kind is SiteKind.RESID_POST)


def check_layers(interventions: Sequence[Intervention], n_layers: int, n_heads: int) -> None:
    """Raises UsageError for a layer or a head that the model does not have."""
    for one in interventions:
        for place in one.places if isinstance(one, Patch) else ():
            if isinstance(place, Site) and place.in_eyes:
                raise UsageError(f"{place} lies before the decoder, which is what is replayed; patch it with `interventions.patched`.")
        for layer in one.layers if isinstance(one, Knockout) else [place.layer for place in one.places]:
            _check_layer(layer, n_layers)
    check_heads(interventions, n_layers, n_heads)


def check_heads(interventions: Sequence[Intervention], n_layers: int, n_heads: int) -> None:
    """Raises UsageError for a head that the model does not have."""
    for place in (place for one in interventions if isinstance(one, Patch) for place in one.places):
        if isinstance(place, Head):
            _check_layer(place.layer, n_layers)
            if not 0 <= place.head < n_heads:
                raise UsageError(f'"{place}" does not exist: a layer has heads 0-{n_heads - 1}.')


def _check_layer(layer: int | None, n_layers: int) -> None:
    if layer is not None and not 0 <= layer < n_layers:
        raise UsageError(f"layer {layer} does not exist: the model has layers 0-{n_layers - 1}.")
