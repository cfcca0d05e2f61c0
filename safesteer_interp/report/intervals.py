"""The small picture beside a claim: its interval, its controls and the claimed region on one number line, as inline SVG."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from safesteer_interp.plotting.palette import ENTITIES
from safesteer_interp.report.tables import number

WIDTH, LEFT, ROW, TOP = 440, 190, 16, 16
LONGEST = 33
"""Pixels: the whole width, the part for names, the height of a row, the room above the first; letters of a name that fit its part."""


def claim_picture(record: dict[str, Any]) -> Markup:
    """An SVG of one claim record of claims.json; the estimate on top, controls below in grey, the claimed region shaded.

    Everything written into it is a number of ours or escaped text. Empty when the estimate has no value.
    """
    lines = [record["estimate"], *(c["estimate"] for c in record["controls"])]
    threshold = record["threshold"]
    edges = [float(t) for t in (threshold if isinstance(threshold, list) else [threshold])]
    known = [float(e[k]) for e in lines for k in ("value", "low", "high") if e[k] is not None] + edges
    if record["estimate"]["value"] is None:
        return Markup("")
    low, high = min(known), max(known)
    margin = 0.08 * ((high - low) or abs(high) or 1.0)
    low, high = low - margin, high + margin

    def at(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 4) * (value - low) / (high - low), 1)

    height = TOP + ROW * len(lines) + 4
    region = {"above": (edges[0], high), "below": (low, edges[0]), "within": (edges[0], edges[-1])}[record["direction"]]
    parts = [
        Markup('<rect class="region" x="{}" y="{}" width="{}" height="{}"/>').format(
            at(region[0]), TOP - 4, round(at(region[1]) - at(region[0]), 1), height - TOP + 4
        )
    ]
    for edge in edges:
        side = "start" if at(edge) < LEFT + 20 else "end" if at(edge) > WIDTH - 24 else "middle"
        parts.append(Markup('<line class="edge" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(at(edge), TOP - 4, height))
        parts.append(Markup('<text x="{}" y="9" text-anchor="{}">{}</text>').format(at(edge), side, number(edge)))
    color = ENTITIES["verdict"][record["verdict"]].color
    names = ["estimate", *(c["name"].replace("_", " ") for c in record["controls"])]
    for i, (name, estimate) in enumerate(zip(names, lines, strict=True)):
        y = TOP + ROW * i + ROW / 2
        short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        parts.append(Markup('<text x="{}" y="{}" text-anchor="end">{}<title>{}</title></text>').format(LEFT - 8, y + 3, short, name))
        if estimate["value"] is None:
            continue
        paint = color if i == 0 else "#8c8c8c"
        if estimate["low"] is not None and estimate["high"] is not None:
            bar = Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" stroke="{3}" stroke-width="{4}"/>')
            parts.append(bar.format(at(float(estimate["low"])), at(float(estimate["high"])), y, paint, 3 if i == 0 else 2))
        size = 4.5 if i == 0 else 3
        parts.append(Markup('<circle cx="{}" cy="{}" r="{}" fill="{}"/>').format(at(float(estimate["value"])), y, size, paint))
    opening = Markup('<svg class="interval" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" aria-label="{2}">')
    return opening.format(WIDTH, height, f"interval of: {record['statement']}") + Markup("").join(parts) + Markup("</svg>")
