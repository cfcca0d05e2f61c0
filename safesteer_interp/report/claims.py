"""One claim as readers see it: numbers and their interval in words, what is counted, the reason said plainly, controls told by kind.

Records of claims.json are read here and nowhere else in the report, those of schema 1 (no kinds, no adjusted p) included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from safesteer_interp.report.intervals import claim_picture
from safesteer_interp.report.tables import interval, is_few, number
from safesteer_interp.report.units import counted

CONTROL_WORDS = {"null": "null control", "paired": "difference to a control", "context": "for comparison"}
VERDICTS = ("supported", "contradicted", "undecided")
KINDS = ("finding", "replication", "sanity")


def seen(record: Mapping[str, Any]) -> dict[str, Any]:
    """A claim of claims.json with what a page needs besides: shown, counted, edge, reason, controls, picture.

    Raises KeyError or TypeError for a record that is not as the runner writes it.
    """
    e, edge = record["estimate"], record["threshold"]
    unit = f" {record['unit']}" if record["unit"] else ""
    between = f"{number(edge[0])} to {number(edge[1])}" if isinstance(edge, list) else number(edge)
    full = {
        "kind": "finding", "source": "", "printed": "", "p": None, "p_holm": None, "difference_to": "", "clusters_missing": 0,
        "clusters": "pairs", **record,
    }  # fmt: skip
    return {
        **full,
        "shown": _number(e),
        "counted": counted(full) + _few(e),
        "edge": f"{record['direction']} {between}{unit}",
        "reason": plainly(str(record["reason"])),
        "cause": cause_of(full),
        "tested": "" if full["p_holm"] is None else f"p = {full['p_holm']:.2g}, adjusted over the claims of this finding",
        "controls": [_control(c) for c in record["controls"]],
        "picture": claim_picture(full),
    }


def plainly(reason: str) -> str:
    """A verdict's reason without the double negatives of its regions: "lies outside of above 0.75" is "lies below 0.75"."""
    swapped = re.sub(r"outside of (above|below)\b", lambda m: {"above": "below", "below": "above"}[m[1]], reason)
    return re.sub(r"across the edge of (above|below|within)\b", "across the edge at", swapped)


def cause_of(record: Mapping[str, Any]) -> str:
    """What keeps a claim undecided, in a few words, where its interval alone does not show it; "" elsewhere.

    That an interval reaches across the edge is seen from the numbers; a p, a control or too few clusters is not.
    """
    if record["verdict"] != "undecided":
        return ""
    reason = str(record["reason"]).partition("; a value of ")[0]
    return "" if "reaches across the edge" in reason else reason.partition(", but ")[2] or reason


def _control(record: Mapping[str, Any]) -> dict[str, Any]:
    kind = record.get("kind") or ("null" if record["null"] else "context")
    e = record["estimate"]
    return {**record, "kind": kind, "word": CONTROL_WORDS[kind], "label": record["name"].replace("_", " "), "shown": _number(e) + _few(e)}


def _number(estimate: Mapping[str, Any]) -> str:
    """Value and interval; the spread of draws is no interval and is called what it is."""
    text = interval(estimate["value"], estimate["low"], estimate["high"])
    if estimate.get("kind") != "spread":
        return text
    share = "range" if estimate["level"] == 1 else f"central {100 * estimate['level']:g} %"
    return f"{text} ({share} of draws)"


def _few(estimate: Mapping[str, Any]) -> str:
    return " (few)" if estimate.get("kind") != "spread" and is_few(estimate["clusters"]) else ""
