"""The one page of a replication: each printed number beside ours, the claims behind the figures, deviations, estimate and time taken.

As HTML that loads nothing, and as Markdown. It holds no answer and no request of any benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from safesteer_interp.files import write_text
from safesteer_interp.replication.cells import tally
from safesteer_interp.replication.estimate import cost
from safesteer_interp.report.replication import Row
from safesteer_interp.report.tables import escape_markdown, number

HEAD = ("row", "column", "printed", "here", "n", "change, printed", "change, here", "outcome")


@dataclass(frozen=True)
class Page:
    """What the page says."""

    model: str
    stands: str
    """The paper's model whose numbers are printed beside."""
    about: Mapping[str, str]
    """Facts: model, settings, judges, licences."""
    cells: Sequence[Mapping[str, Any]]
    rows: Sequence[Row]
    """The paper's figures, from the claims of the findings that do them again."""
    deviations: Sequence[str]
    missing: Sequence[str]
    """What could not be measured, and why."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Part of the work -> estimated (`seconds`) and `took`."""
    price: float | None = None
    devices: int = 1

    def write(self, folder: Path) -> Path:
        """Writes replication.html and replication.md; returns the first."""
        tables = {name: [shown(cell) for cell in self.cells if cell["table"] == name] for name in ("Table 1", "Table 2", "Table 3")}
        counts = ", ".join(f"{n} {outcome}" for outcome, n in tally(self.cells).items())
        given = {"p": self, "tables": tables, "head": HEAD, "counts": counts, "work": self.work(), "total": self.total()}
        loader = PackageLoader("safesteer_interp.replication")
        page = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        style = (resources("safesteer_interp.report") / "templates" / "gallery.css").read_text("utf-8")
        write_text(folder / "replication.html", page.get_template("replication.html.j2").render(style=Markup(style), **given))
        write_text(folder / "replication.md", self._markdown(tables, counts))
        return folder / "replication.html"

    def work(self) -> list[tuple[str, ...]]:
        """A line per part: what was to be done, what was estimated, what it took, and their ratio."""
        lines: list[tuple[str, ...]] = []
        for name, part in self.parts.items():
            took = part["took"] if part["done"] else math.nan
            ratio = part["seconds"] / took if took and math.isfinite(took) else math.nan
            counted = ", ".join(f"{part[what]:,} {what}" for what in ("passes", "answers", "tokens", "verdicts") if part[what]) or "–"
            lines.append((name, counted, time_of(part["seconds"]), time_of(took), f"{ratio:.2f}" if math.isfinite(ratio) else "–"))
        return lines

    def total(self) -> str:
        """The sum over all parts in a sentence."""
        estimated = sum(part["seconds"] for part in self.parts.values())
        took = sum(part["took"] for part in self.parts.values() if part["done"])
        said = f"Estimated {time_of(estimated)}, took {time_of(took)}"
        if self.price is None:
            return f"{said}."
        return (
            f"{said}: {took / 3600 * self.devices:.2f} GPU hours, {took / 3600 * self.devices * self.price:.2f} at {self.price:g} an hour."
        )

    def _markdown(self, tables: Mapping[str, Sequence[Sequence[str]]], counts: str) -> str:
        lines = [f"# SafeSteer (arXiv 2605.11716) on {escape_markdown(self.model)}, beside the printed numbers of {self.stands}", ""]
        lines += [f"- {name}: {escape_markdown(value)}" for name, value in self.about.items()]
        lines += ["", f"Printed cells: {counts}.", ""]
        for name, rows in tables.items():
            lines += [f"## {name}", "", *_table(HEAD, rows), ""]
        lines += ["## Figures", "", "Claims of the findings that do them again, on pairs that nothing was fitted on.", ""]
        told = [(r.item.key, r.item.says, " ".join(f"{c['statement']} {c['shown']} ({c['verdict']})" for _, c in r.claims), r.outcome)
                for r in self.rows]  # fmt: skip
        lines += [*_table(("item", "the paper says", "here", "outcome"), told), ""]
        for title, sentences in (("What differs from the paper", self.deviations), ("Not measured", self.missing)):
            if sentences:
                lines += [f"## {title}", "", *(f"- {escape_markdown(sentence)}" for sentence in sentences), ""]
        lines += ["## What it was to take, and took", "", *_table(("part", "work", "estimated", "took", "estimated / took"), self.work())]
        return "\n".join([*lines, "", self.total()]) + "\n"


def shown(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """A cell as `HEAD` has it."""
    unit, places = str(cell["unit"]), 1 if cell["unit"] == "%" else 2
    ours = "–"
    if math.isfinite(cell["value"]):
        ours = number(cell["value"], places)
        if math.isfinite(cell["low"]) and math.isfinite(cell["high"]):
            ours += f" [{number(cell['low'], places)}, {number(cell['high'], places)}]"
    counted = "–" if not math.isfinite(cell["n"]) else f"{int(cell['n'])}"
    if math.isfinite(cell["unjudged"]) and cell["unjudged"]:
        counted += f" ({int(cell['unjudged'])} unjudged)"
    changes = (f"{cell[c]:+.1f}" if math.isfinite(cell[c]) else "–" for c in ("printed_change", "change"))
    return (cell["row"], f"{cell['column']} ({unit})", number(cell["printed"], 2), ours, counted, *changes, cell["outcome"])


def time_of(seconds: float) -> str:
    """Seconds as people say them."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def told_cost(parts: Sequence[Any], price: float | None, devices: int) -> str:
    """What is still to come, in a sentence."""
    sum_of = cost(parts, price, devices)
    money = "" if price is None else f", {sum_of['money']:.2f} at {price:g} a GPU hour"
    return (
        f"{sum_of['passes']:,} prompts to read, {sum_of['answers']:,} answers of at most {sum_of['tokens']:,} tokens to write, "
        f"{sum_of['verdicts']:,} verdicts; about {time_of(3600 * sum_of['hours'])}, {sum_of['gpu_hours']:.2f} GPU hours{money}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(escape_markdown(str(cell)) or "–" for cell in row) + " |" for row in rows),
    ]
