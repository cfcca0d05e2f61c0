"""What stands in for the fields that a user's own rows do not fill: the attack by the row's form, the split by the pair's hash.

Analyses compare harmful with harmless requests of one form, fit on the fit split and report on the test split. A file that names
neither is still usable, as long as it is said which rule filled the gap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from safesteer_interp.datasets.pairs import assign_splits
from safesteer_interp.requests import Attack, Request, Split

LARGE_SCENARIO = 10
"""Pairs from which on a scenario is split by itself; smaller ones are split together, where rounding does less."""


@dataclass(frozen=True)
class Derived:
    """The requests, complete, and one line on what was derived; empty when nothing was."""

    requests: list[Request]
    note: str


def derive(rows: Sequence[Request], given: Sequence[Set[str]]) -> Derived:
    """Fills in `attack` and `split` of the rows that do not have them among their `given` fields."""
    attacks = _attacks(rows, [i for i, fields in enumerate(given) if "attack" not in fields])
    splits = _splits(rows, [i for i, fields in enumerate(given) if "split" not in fields])
    made = [replace(r, attack=attacks.get(i, r.attack), split=splits.get(i, r.split)) for i, r in enumerate(rows)]
    said, helpful = [], []
    formed = Counter(str(attack) for attack in attacks.values() if attack is not Attack.NONE)
    formless = len(attacks) - formed.total()
    if formed:
        said.append(f"the attack of {_rows(formed.total(), 'row')} is taken from the form ({_counted(formed)})")
    if formless:
        why = "could be of several forms" if any(row.harmful for row in rows) else "has no harmful row beside it"
        said.append(f"{_rows(formless, 'harmless row')} {why}: attack none, which analyses of harm leave out")
    if attacks:
        helpful.append("attack")
    if splits:
        said.append(f"the split of {_rows(len(splits), 'row')} is drawn by hash ({_counted(Counter(str(s) for s in splits.values()))})")
        helpful.append("split")
    if said and (own := sum("pair" not in fields for fields in given)):
        said.append(f"{_rows(own, 'row')} without a pair: each is one by itself")
        helpful.append("pair")
    fields = " and ".join(filter(None, [", ".join(f'"{f}"' for f in helpful[:-1]), f'"{helpful[-1]}"'])) if helpful else ""
    return Derived(made, f"{'; '.join(said)}. To decide yourself, fill {fields}." if said else "")


def _attacks(rows: Sequence[Request], missing: Sequence[int]) -> dict[int, Attack]:
    """Attack of each row that names none: harmful ones by form, harmless ones as their partner's, else that of the file's harmful rows.

    A file without any harmful row is no half of a comparison (say, a utility set): its rows stay `none`. So do harmless rows with an
    image where the harmful images are of several kinds and no pair says which.
    """
    found = {i: Attack.CB if rows[i].image else Attack.TEXT for i in missing if rows[i].harmful}
    partners: dict[tuple[str, bool], set[Attack]] = {}
    forms: dict[bool, set[Attack]] = {}
    for i, row in enumerate(rows):
        if row.harmful:
            attack = found.get(i, row.attack)
            partners.setdefault((row.pair, row.image is not None), set()).add(attack)
            forms.setdefault(row.image is not None, set()).add(attack)
    for i in missing:
        row, pictured = rows[i], rows[i].image is not None
        if row.harmful:
            continue
        kinds = partners.get((row.pair, pictured)) or forms.get(pictured) or ({Attack.CB if pictured else Attack.TEXT} if forms else set())
        found[i] = next(iter(kinds)) if len(kinds) == 1 else Attack.NONE
    return found


def _splits(rows: Sequence[Request], missing: Sequence[int]) -> dict[int, Split]:
    """Split of each row that names none: that of its pair where another row names it, else by the hash of the pair.

    Pairs of harmful rows alone, harmless rows alone and of both are split apart from each other, so that every split has both classes.
    """
    without = set(missing)
    known = {row.pair: row.split for i, row in enumerate(rows) if i not in without}
    labels: dict[str, set[bool]] = {}
    scenario: dict[str, str] = {}
    for row in rows:
        labels.setdefault(row.pair, set()).add(row.harmful)
        scenario.setdefault(row.pair, row.scenario)
    fresh = list(dict.fromkeys(rows[i].pair for i in missing if rows[i].pair not in known))
    strata = {pair: (scenario[pair], *sorted(labels[pair])) for pair in fresh}
    sizes = Counter(strata.values())
    named = [(p, str(strata[p] if sizes[strata[p]] >= LARGE_SCENARIO else ("", *strata[p][1:]))) for p in fresh]
    drawn = assign_splits(named)
    together = Counter(stratum for _, stratum in named)
    known |= {pair: Split.TEST if together[stratum] == 1 else drawn[pair] for pair, stratum in named}
    return {i: known[rows[i].pair] for i in missing}


def _rows(n: int, what: str) -> str:
    return f"{n} {what}{'s' if n != 1 else ''}"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(counts.items()))
