"""Defenses: ways to answer requests safely, one file each.

- `Defense`: the contract: `respond`
- `StagedDefense`: rewrite, edits, policy, tilt, review: override what differs
- `Response`: one answer to one request
- `Settings`: how answers are generated
- `DEFENSES`: every defense by name
- `defense_class`: one of them, or a user's own
- `choose`: one with its options, or several joined by "+"
- `Undefended`: the model as it is
- `SafeSteer`: the paper's: guided first tokens and modal alignment
- `ECSO`: asks the model about its own answer
- `CoCA`: amplifies a safety principle in the logits
- `RefusalBias`: a bias on refusal words, the control to beat
- `Composed`: several at once
- `Steered`: fixed edits on every request
- `steer`: answers under one direction
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.defenses.coca import CoCA
    from safesteer_interp.defenses.composed import Composed
    from safesteer_interp.defenses.defense import Defense, Response, Settings, StagedDefense
    from safesteer_interp.defenses.ecso import ECSO
    from safesteer_interp.defenses.none import Undefended
    from safesteer_interp.defenses.refusal_bias import RefusalBias
    from safesteer_interp.defenses.registry import DEFENSES, choose, defense_class
    from safesteer_interp.defenses.safesteer import SafeSteer
    from safesteer_interp.defenses.steered import Steered, steer

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "defense": ("Defense", "StagedDefense", "Response", "Settings"),
        "registry": ("DEFENSES", "defense_class", "choose"),
        "none": ("Undefended",),
        "safesteer": ("SafeSteer",),
        "ecso": ("ECSO",),
        "coca": ("CoCA",),
        "refusal_bias": ("RefusalBias",),
        "composed": ("Composed",),
        "steered": ("Steered", "steer"),
    },
)
