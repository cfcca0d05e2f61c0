"""No defense: the vanilla model, against which every method is compared."""

from __future__ import annotations

from dataclasses import dataclass

from safesteer_interp.defenses.defense import StagedDefense


@dataclass(frozen=True)
class Undefended(StagedDefense):
    """Ordinary sampling of the untouched model."""

    name = "none"
