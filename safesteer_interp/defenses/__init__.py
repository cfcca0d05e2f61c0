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
- `MLLMProtector`: a detector reads the answer, a rewriter replaces it
- `MRD`: asks the model for risks and answers with them in its prompt
- `AdaShield`: a shield of words around the request
- `SelfReminder`: the request between two reminders
- `RefusalSteering`: the refusal direction added at one layer
- `ShiftDC`: takes back what a picture does along the safety direction
- `JRSRem`: takes the jailbreak-related part out of that
- `CMRM`: moves states back by what a blank picture does
- `Conformal`: refuses above a threshold with a bound on false interventions
- `Steered`: fixed edits on every request
- `steer`: answers under one direction
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.defenses.adashield import AdaShield
    from safesteer_interp.defenses.cmrm import CMRM
    from safesteer_interp.defenses.coca import CoCA
    from safesteer_interp.defenses.composed import Composed
    from safesteer_interp.defenses.conformal import Conformal
    from safesteer_interp.defenses.defense import Defense, Response, Settings, StagedDefense
    from safesteer_interp.defenses.ecso import ECSO
    from safesteer_interp.defenses.jrs_rem import JRSRem
    from safesteer_interp.defenses.mllm_protector import MLLMProtector
    from safesteer_interp.defenses.mrd import MRD
    from safesteer_interp.defenses.none import Undefended
    from safesteer_interp.defenses.refusal_bias import RefusalBias
    from safesteer_interp.defenses.refusal_steering import RefusalSteering
    from safesteer_interp.defenses.registry import DEFENSES, choose, defense_class
    from safesteer_interp.defenses.safesteer import SafeSteer
    from safesteer_interp.defenses.self_reminder import SelfReminder
    from safesteer_interp.defenses.shiftdc import ShiftDC
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
        "mllm_protector": ("MLLMProtector",),
        "mrd": ("MRD",),
        "adashield": ("AdaShield",),
        "self_reminder": ("SelfReminder",),
        "refusal_steering": ("RefusalSteering",),
        "shiftdc": ("ShiftDC",),
        "jrs_rem": ("JRSRem",),
        "cmrm": ("CMRM",),
        "conformal": ("Conformal",),
        "steered": ("Steered", "steer"),
    },
)
