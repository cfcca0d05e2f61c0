"""Defenses by name: the registry, a user's own class, and several joined by "+", with options written as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from safesteer_interp.defenses.composed import Composed
from safesteer_interp.defenses.defense import Defense, Settings
from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.fields import settings_of
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.named_class import class_named
from safesteer_interp.requests import Request

DEFENSES: Mapping[str, str] = {
    "none": "safesteer_interp.defenses.none:Undefended",
    "safesteer": "safesteer_interp.defenses.safesteer:SafeSteer",
    "ecso": "safesteer_interp.defenses.ecso:ECSO",
    "coca": "safesteer_interp.defenses.coca:CoCA",
    "mllm_protector": "safesteer_interp.defenses.mllm_protector:MLLMProtector",
    "mrd": "safesteer_interp.defenses.mrd:MRD",
    "adashield": "safesteer_interp.defenses.adashield:AdaShield",
    "self_reminder": "safesteer_interp.defenses.self_reminder:SelfReminder",
    "refusal_steering": "safesteer_interp.defenses.refusal_steering:RefusalSteering",
    "shiftdc": "safesteer_interp.defenses.shiftdc:ShiftDC",
    "jrs_rem": "safesteer_interp.defenses.jrs_rem:JRSRem",
    "cmrm": "safesteer_interp.defenses.cmrm:CMRM",
    "conformal": "safesteer_interp.defenses.conformal:Conformal",
    "refusal_bias": "safesteer_interp.defenses.refusal_bias:RefusalBias",
}
"""Name -> "module:class", imported only when asked for. A new defense is a file and a line here."""

PRESETS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "safesteer-paper": ("safesteer", {"preset": "paper"}),
    "safesteer-corrected": ("safesteer", {"preset": "corrected"}),
    "safesteer-calibrated": ("safesteer", {"preset": "calibrated"}),
}
"""Name -> (defense, options given with the name): settings of one defense that tables and figures know by name."""


@dataclass(frozen=True)
class Part:
    """One defense that was asked for, not built yet."""

    name: str
    cls: type[Defense]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Choice:
    """What a user asked for: one defense or several, each with its options, checked before anything is loaded or fitted."""

    parts: tuple[Part, ...]

    @property
    def trained(self) -> bool:
        """Whether training requests are needed to build it."""
        return any(part.cls.trained for part in self.parts)

    def fits_on(self, mllm: MLLM) -> bool:
        """The same on this model: not where what was fitted is stored."""
        return any(part.cls.fits_on(mllm, part.options) for part in self.parts)

    def check(self, settings: Settings, mllm: MLLM | None = None) -> None:
        """Raise UsageError for options that cannot work: before the model is loaded, and again with it."""
        for part in self.parts:
            part.cls.check_options(part.options, settings, mllm)

    def build(self, mllm: MLLM, training: Sequence[Request] = ()) -> Defense:
        """The defense, ready for use; trained parts are fitted on the training requests."""
        built = [part.cls.build(mllm, training if part.cls.trained else (), **part.options) for part in self.parts]
        return built[0] if len(built) == 1 else Composed(tuple(built))


def choose(name: str, words: Sequence[str] = ()) -> Choice:
    """The defense called `name` ("coca", "adashield+safesteer", "mine.py:Mine", "package.module:Mine") with options "k=8".

    An option goes to the part that has it; "safesteer.k=8" says which where several have. Raises UsageError for unknown names.
    """
    asked = [part.strip() for part in name.split("+")]
    classes = [defense_class(part) for part in asked]
    if len(classes) > 1:
        Composed.check_parts(classes)
    names = [str(cls.name) for cls in classes]
    known = [cls.options() for cls in classes]
    given: list[list[str]] = [[] for _ in classes]
    for word in words:
        key, equals, value = word.partition("=")
        prefix, dot, option = key.strip().replace("-", "_").rpartition(".")
        owners = [i for i in range(len(names)) if (names[i] == prefix if dot else option in known[i] or len(names) == 1)]
        if not owners:
            raise UsageError(f'"{name}" has no option "{key}".{did_you_mean(option, [o for options in known for o in options])}')
        if len(owners) > 1:
            whose = " and ".join(names[i] for i in owners)
            raise UsageError(f'"{option}" is an option of {whose}; write {names[owners[0]]}.{option}=... to say whose is meant.')
        given[owners[0]].append(f"{option}{equals}{value}")
    preset = [dict(PRESETS[part][1]) if part in PRESETS else {} for part in asked]
    settings = [preset[i] | settings_of(known[i], given[i], owner=f'defense "{names[i]}"') for i in range(len(names))]
    return Choice(tuple(Part(*each) for each in zip(names, classes, settings, strict=True)))


def defense_named(text: str) -> Choice:
    """A defense with its options in one word: "coca:alpha=2,plausibility=0.1", "adashield+safesteer", "file.py:Class:option=value".

    Raises UsageError for unknown names and options.
    """
    name, _, rest = text.partition(":")
    if rest and name not in (*DEFENSES, *PRESETS) and "+" not in name:  # a class of one's own is named with a colon, too
        owner, _, rest = rest.partition(":")
        name = f"{name}:{owner}"
    return choose(name, [word for word in rest.split(",") if word.strip()])


def defense_class(name: str) -> type[Defense]:
    """The defense called `name`, or a user's own: "file.py:Class" or "module:Class".

    Raises UsageError with the nearest names, and InputError for a file that is missing or cannot be imported.
    """
    name = PRESETS[name][0] if name in PRESETS else name
    if name in DEFENSES:
        module, _, cls = DEFENSES[name].partition(":")
        found: type[Defense] = getattr(import_module(module), cls)
        return found
    if ":" in name or name.endswith(".py"):
        return class_named(name, Defense, "defense")
    raise UsageError(f'no defense is called "{name}".{did_you_mean(name, [*DEFENSES, *PRESETS])} One of your own is named "file.py:Class".')
