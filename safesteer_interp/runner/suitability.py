"""Suitability: whether a data set holds what an analysis compares, and if not, one sentence that says what it lacks.

People bring one class only, two pairs, or no twins. An analysis declares what it needs (`DataNeeds`), and is skipped with the reason
before anything is traced, instead of failing in a fit or drawing a number from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from safesteer_interp.requests import Attack, Request
from safesteer_interp.tracing.spec import TraceSpec


@dataclass(frozen=True)
class DataNeeds:
    """What an analysis needs of the requests that each of its specs picks. By default nothing."""

    both_classes: bool = False
    """Harmful and harmless requests of every attack, wherever a spec does not ask for one class alone."""
    pairs: int = 1
    """Pairs in each class; two are the fewest that an interval can be drawn from."""
    together: tuple[Attack, ...] = ()
    """Attacks in which `pairs` pairs of each class must be there, the same ones in each; where a spec picks all of these attacks."""
    twins: bool = False
    """The pairs of `together` must have both sides, harmful and harmless."""


ANY_DATA = DataNeeds()
COMPARED = DataNeeds(both_classes=True, pairs=2)
"""What a comparison of harmful with harmless requests needs at the least."""


def lacking(needs: DataNeeds, attacks: Sequence[Attack], picked: Iterable[tuple[TraceSpec, Sequence[Request]]]) -> str:
    """What is missing, as the end of the sentence 'the data set "x" ...'; empty when nothing is.

    `attacks` must be among what every spec picks that asks for them; `picked` are the specs with the requests they pick.
    """
    for spec, requests in picked:
        missing = _attack_missing(attacks, spec, requests) or (needs.both_classes and _class_missing(spec, requests))
        missing = missing or _pairs_missing(needs, spec, requests)
        if missing:
            limited = len({r.pair for r in requests if r.split == requests[0].split}) == spec.pairs
            return missing + (f"; only {spec.pairs} of its pairs were taken, as a parameter says (--set)." if limited else ".")
    return ""


def _attack_missing(attacks: Sequence[Attack], spec: TraceSpec, requests: Sequence[Request]) -> str:
    there = {r.attack for r in requests}
    for attack in attacks:
        if _asks_for(spec, attack) and attack not in there:
            return f"has no request of attack {attack}{_split(spec)}"
    return ""


def _class_missing(spec: TraceSpec, requests: Sequence[Request]) -> str:
    for attack in dict.fromkeys(r.attack for r in requests):
        sides = {r.harmful for r in requests if r.attack is attack}
        for side in (True, False):
            if spec.harmful is None and side not in sides:
                return f"has no {_word(side)} request of attack {attack}{_split(spec)} to compare with the {_word(not side)} ones"
    return ""


def _pairs_missing(needs: DataNeeds, spec: TraceSpec, requests: Sequence[Request]) -> str:
    forms = {(r.pair, r.attack, r.harmful) for r in requests}
    together = needs.together if all(_asks_for(spec, attack) for attack in needs.together) else ()
    groups = [together] if together else [(attack,) for attack in dict.fromkeys(r.attack for r in requests)]
    for side in sorted({r.harmful for r in requests}):
        sides = (True, False) if needs.twins and together else (side,)
        for attacks in groups:
            found = sum(all((pair, a, s) in forms for a in attacks for s in sides) for pair in {r.pair for r in requests})
            if found < needs.pairs:
                which = "both harmful and harmless" if len(sides) > 1 else _word(side)
                return (
                    f"has {found} pairs that are {which} as {' and '.join(map(str, attacks))}{_split(spec)}, where {needs.pairs} are needed"
                )
    return ""


def _asks_for(spec: TraceSpec, attack: Attack) -> bool:
    return spec.attacks is None or attack in spec.attacks


def _word(harmful: bool) -> str:
    return "harmful" if harmful else "harmless"


def _split(spec: TraceSpec) -> str:
    return f" in the {spec.split} split" if spec.split is not None else ""
