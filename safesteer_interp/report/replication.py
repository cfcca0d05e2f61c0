"""The replication table: each figure and table of the paper, what it says, what each model shows here, and whether they agree."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from safesteer_interp.report.paper import ARXIV, ITEMS, Item

AGREES = {"supported": "agrees", "contradicted": "disagrees", "undecided": "undecided"}
_NAMED = re.compile(r"(Fig\. \d+(?:\([a-z]\))?|Table \d+|section \d+(?:, finding \d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One item of the paper with what was found about it on one model."""

    item: Item
    findings: tuple[str, ...]
    """Analyses that redo it."""
    claims: tuple[tuple[str, Mapping[str, Any]], ...]
    """(finding, claim) of every replication of it."""

    @property
    def outcome(self) -> str:
        """ "agrees", "disagrees", "undecided", "mixed"; "not tested" where no replication claims it, "nothing to test" for a drawing."""
        if not self.item.says:
            return "nothing to test"
        found = {AGREES[claim["verdict"]] for _, claim in self.claims}
        if not found:
            return "not tested"
        return found.pop() if len(found) == 1 else "mixed"


def asides(claim: Mapping[str, Any]) -> list[str]:
    """What is to be known of a replication's outcome besides its number: what keeps it open; where it disagrees, what its note says."""
    words = claim["cause"] if claim["verdict"] == "undecided" else claim["note"] if claim["verdict"] == "contradicted" else ""
    return [words.removesuffix(".")] if words else []


def keys_of(words: str) -> list[str]:
    """The items of the paper that a source or `Analysis.replicates` names; empty for another paper's, or a section without an item.

    A figure named without its part ("Fig. 2") is all its parts.
    """
    if "SafeSteer" not in words and ARXIV not in words:
        return []
    spelled = re.sub(r"(Fig\. \d+)([a-z])\b", r"\1(\2)", words)  # "Fig. 2a" is the paper's Fig. 2(a)
    named = [match[0].lower() for match in _NAMED.finditer(spelled)]
    known = [item.key for item in ITEMS]
    exact = {key.lower() for key in known}
    return [key for name in named for key in known if key.lower() == name or (name not in exact and key.lower().split("(")[0] == name)]


def replication_rows(claims: Mapping[str, Mapping[str, Mapping[str, Any]]], redoes: Mapping[str, str]) -> list[Row]:
    """A row for every item of the paper, in its order; `claims` by finding and id on one model, `redoes` what each finding replicates."""
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {item.key: [] for item in ITEMS}
    for finding, its in claims.items():
        for claim in its.values():
            if claim["kind"] == "replication":
                for key in keys_of(str(claim["source"])) or keys_of(redoes.get(finding, ""))[:1]:
                    found[key].append((finding, claim))
    return [
        Row(item, tuple(dict.fromkeys([f for f, words in redoes.items() if item.key in keys_of(words)] + [f for f, _ in found[item.key]])),
            tuple(found[item.key]))
        for item in ITEMS
    ]  # fmt: skip


def tally(rows: Sequence[Row]) -> dict[str, int]:
    """How many items end how, those that can be tested."""
    counts: dict[str, int] = {}
    for row in rows:
        if row.item.says:
            counts[row.outcome] = counts.get(row.outcome, 0) + 1
    return counts
