"""What SafeSteer's parameters may be, and how those that earlier versions stored are called now."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from safesteer_interp.decoding.choice import Choice
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.vectors.alignment import ApplicationRule

SCORERS = ("probe", "random", "refusal_tokens")
GATES = ("none", "probe")


def current_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Stored parameters as they are called now: softmax((s + mix log p) / temperature) of earlier versions where beta can say it.

    Raises InputError where it cannot.
    """
    found = dict(parameters)
    if "mix" not in found:
        return found
    mix, temperature = found.pop("mix"), found.pop("temperature")
    if mix not in (0.0, temperature):
        raise InputError(
            f"this SafeSteer was saved with mix={mix} and temperature={temperature}, which softmax(log p + beta z) cannot say; "
            "fit it again."
        )
    beta = math.inf if temperature == 0 else 1 / temperature
    return {**found, "beta": beta, "score_only": mix == 0, "scaled": False}


def check_types(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise UsageError for a parameter that is not of the type of its default, or a number that is not finite (beta may be infinite)."""
    for name, value in given.items():
        wanted = type(defaults[name])
        numeric = wanted is float and type(value) is int
        finite = not isinstance(value, float) or math.isfinite(value) or (name in MAY_BE_INFINITE and not math.isnan(value))
        if not (type(value) is wanted or numeric) or not finite:
            words = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}[wanted]
            raise UsageError(f"`{name}` of SafeSteer is {value!r}; it must be {words}.")


MAY_BE_INFINITE = ("beta", "threshold", "threshold_picture")
"""A gate at -inf is always open, at inf always shut."""


def check_choices(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a gate, scorer, sign or norm that does not exist, and for a negative beta."""
    for field, known in (("gate", GATES), ("scorer", SCORERS)):
        if given[field] not in known:
            raise UsageError(f'SafeSteer has no {field} "{given[field]}".{did_you_mean(given[field], known)}')
    ApplicationRule(given["sign"], given["norm"])
    Choice(given["beta"], given["score_only"])
