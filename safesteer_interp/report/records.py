"""What the report is made of: the results below `figures/`, as records that no page has to parse again.

Everything is read from the files the runner wrote. What differs between two runs with equal results (when, where, on which commit) is
in none of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.dataset import USUAL
from safesteer_interp.errors import InputError
from safesteer_interp.files import read_json
from safesteer_interp.report.claims import CONTROL_WORDS, VERDICTS, seen
from safesteer_interp.report.render import COLUMN
from safesteer_interp.report.tables import FEW_NOTE, has_flags, merged
from safesteer_interp.runner.folders import RECORD, STATUS_FILES
from safesteer_interp.runner.tables import table_files

SHOWN_ROWS = 150
"""Rows of a table shown on the page; the rest is in its CSV."""
SCALE = 1.65
"""Pixels per point of a figure."""
DOWNLOADS = ("pdf", "svg", "png", "csv", "tex", "md", "json")


@dataclass(frozen=True)
class Entry:
    """One analysis on one model and data set."""

    slug: str
    model: str
    dataset: str
    known_answer: bool
    status: str
    """"done", "skipped" or "failed"."""
    reason: str = ""
    profile: str = ""
    pictures: tuple[dict[str, str], ...] = ()
    """source, print (the PDF), column (the same for a narrow page, or ""), width (pixels), name, caption and alt of each figure."""
    claims: tuple[dict[str, Any], ...] = ()
    tables: tuple[dict[str, Any], ...] = ()
    downloads: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    scope: str = ""
    folder: str = ""
    """Name of the folder it lies in, below its finding's."""
    fingerprint: str = ""
    """Of the weights and the processor it was measured on; "" where nothing was measured."""
    label: str = ""
    """What pages call what was measured, where another of the same name lies beside it."""

    @property
    def name(self) -> str:
        """What pages call the model (and the data, where they are not the usual ones): no two that were measured have one name."""
        return self.label or self.plain_name

    @property
    def plain_name(self) -> str:
        """The same by the model's own name, which two checkpoints may share."""
        return self.model if self.dataset in (USUAL, "") or self.known_answer else f"{self.model} on {self.dataset}"

    @property
    def counts(self) -> dict[str, int]:
        """How many claims of each verdict; checks of the machinery are no findings and not counted."""
        return dict(Counter(c["verdict"] for c in self.claims if c["kind"] != "sanity"))


@dataclass
class Finding:
    """One analysis with its results on every model."""

    id: str
    title: str
    question: str
    replicates: str
    cites: list[str]
    order: int
    entries: list[Entry] = field(default_factory=list)


def collect_findings(figures: Path) -> tuple[list[Finding], list[Finding]]:
    """Findings on real models, and the known-answer checks, each in gallery order."""
    found: tuple[dict[str, Finding], dict[str, Finding]] = ({}, {})
    for folder in sorted(p for p in figures.glob("*/*") if p.is_dir()):
        note = next((folder / n for n in STATUS_FILES if (folder / n).is_file()), None)
        if not (folder / RECORD).is_file() and note is None:
            continue
        try:
            about, entry = _entry(folder, note, figures)
            about = {k: about[k] for k in _ABOUT}
            _check_kinds(about, entry)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as cause:
            raise InputError(f"{folder}: its records are not as `safesteer run` writes them ({cause!r}); run the analysis again.") from None
        group = found[1] if entry.known_answer else found[0]
        finding = group.setdefault(about["id"], Finding(**about))
        finding.entries.append(entry)
    for group in found:
        _tell_apart(list(group.values()))
        for finding in group.values():
            finding.entries.sort(key=lambda e: (e.model != "mini", e.dataset != "bundled", e.model, e.dataset, e.name))
    real, checks = (sorted(g.values(), key=lambda f: (f.order, f.id)) for g in found)
    return real, checks


def _tell_apart(findings: Sequence[Finding]) -> None:
    """Gives a label to each of those that share a name: the folder's, and the weights' fingerprint where one folder's name has several."""
    places: dict[str, set[str]] = {}
    weights: dict[tuple[str, str], set[str]] = {}
    for entry in (e for f in findings for e in f.entries):
        places.setdefault(entry.plain_name, set()).add(entry.folder)
        weights.setdefault((entry.plain_name, entry.folder), set()).update({entry.fingerprint} - {""})
    for finding in findings:
        for i, entry in enumerate(finding.entries):
            plain = entry.plain_name
            label = plain if len(places[plain]) == 1 else entry.folder.replace("@", " on ")
            if entry.fingerprint and len(weights[plain, entry.folder]) > 1:
                label += f", weights {entry.fingerprint[:8]}"
            finding.entries[i] = replace(entry, label=label if label != plain else "")


_ABOUT = {"id": str, "title": str, "question": str, "replicates": str, "cites": list, "order": int}
"""What a finding is told by, and of which kind each is."""


def _check_kinds(about: dict[str, Any], entry: Entry) -> None:
    """Raises TypeError for a record whose fields are there and of another kind: they are sorted, counted and grouped by."""
    fields = [(about[name], kind, name) for name, kind in _ABOUT.items()]
    fields += [(entry.model, str, "model"), (entry.dataset, str, "data")]
    fields += [
        (c[name], str, f"{name} of a claim")
        for c in entry.claims
        for name in ("id", "statement", "verdict", "reason", "unit", "note", "kind")
    ]
    if wrong := [name for value, kind, name in fields if not isinstance(value, kind)]:
        raise TypeError(f"{wrong[0]} is of another kind")
    known = [(c["verdict"], VERDICTS) for c in entry.claims] + [
        (k["kind"], tuple(CONTROL_WORDS)) for c in entry.claims for k in c["controls"]
    ]
    if unknown := [word for word, words in known if word not in words]:
        raise ValueError(f"{unknown[0]!r} is no verdict or control")


def _entry(folder: Path, note: Path | None, figures: Path) -> tuple[dict[str, Any], Entry]:
    slug = f"{folder.parent.name}--{folder.name}".replace("@", "-").replace(".", "-")
    if not (folder / RECORD).is_file() and note is not None:
        record = read_json(note)
        model, _, dataset = folder.name.partition("@")
        about = {"model": model, "dataset": dataset, "known_answer": False, **record}
        status = "failed" if note.name == "failed.json" else "skipped"
        known = bool(about["known_answer"])
        return record["analysis"], Entry(slug, about["model"], about["dataset"], known, status, str(record["reason"]), folder=folder.name)
    record = read_json(folder / RECORD)
    ours = {*record["files"], RECORD, *STATUS_FILES} if "files" in record else {p.name for p in folder.iterdir()}
    claims = read_json(folder / "claims.json")
    about, model = record["analysis"], record["model"]
    failed = note is not None and note.name == "failed.json"
    entry = Entry(
        slug=slug,
        model=model["name"],
        dataset=record["data"]["name"],
        known_answer=bool(model["known_answer"]),
        status="failed" if failed else "done",
        reason=str(read_json(note)["reason"]) if failed and note is not None else "",
        profile=record["profile"],
        pictures=tuple(_pictures(folder, about, figures, ours)),
        claims=tuple(seen(c) for c in claims["claims"]),
        tables=tuple(_table(name, t, folder, figures) for name, t in table_files(folder, list(record["tables"])).items()),
        downloads=tuple(
            (p.name, p.relative_to(figures).as_posix()) for p in sorted(folder.iterdir()) if p.suffix[1:] in DOWNLOADS and p.name in ours
        ),
        facts=tuple(_facts(record)),
        scope=claims["scope"],
        folder=folder.name,
        fingerprint=str(model["fingerprint"]),
    )
    return about, entry


def _pictures(folder: Path, about: dict[str, Any], figures: Path, ours: set[str]) -> list[dict[str, str]]:
    drawn = (p for p in folder.glob("*.svg") if p.name in ours and not p.stem.endswith(COLUMN))
    paths = sorted(drawn, key=lambda p: (p.stem != "figure", p.stem))
    shown = []
    for path in paths:
        large = path.stat().st_size > 1_500_000 and path.with_suffix(".png").is_file()
        source = path.with_suffix(".png") if large else path
        column = path.with_stem(path.stem + COLUMN)
        caption = about["captions"].get(path.stem, "")
        shown.append(
            {
                "source": source.relative_to(figures).as_posix(),
                "print": path.with_suffix(".pdf").relative_to(figures).as_posix(),
                "column": column.relative_to(figures).as_posix() if column.name in ours and column.is_file() else "",
                "width": _width(path),
                "name": path.stem,
                "caption": caption,
                "alt": f"{about['title']}: {caption or about['question']}",
            }
        )
    return shown


def _width(path: Path) -> str:
    """Pixels to show an SVG at, all figures at one scale: a page's width fills the text, a column's keeps its size. "" where unknown."""
    found = re.search(r'<svg[^>]*? width="([\d.]+)pt"', path.read_text(encoding="utf-8", errors="replace")[:2000])
    return f"{float(found[1]) * SCALE:.0f}" if found else ""


def _table(name: str, table: Any, folder: Path, figures: Path) -> dict[str, Any]:
    text = merged(table.head(SHOWN_ROWS))
    return {
        "name": name,
        "rows": len(table),
        "shown": min(len(table), SHOWN_ROWS),
        "note": FEW_NOTE if has_flags(text) else "",
        "columns": [str(c).replace("_", " ") for c in text.columns],
        "cells": [list(row) for row in text.itertuples(index=False, name=None)],
        "source": (folder / f"{name}.csv").relative_to(figures).as_posix(),
    }


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    model, data = record["model"], record["data"]
    params = ", ".join(f"{k} = {_short(v)}" for k, v in record["params"].items()) or "none"
    return [
        ("model", f"{model['name']} ({model['family']}, {model['layers']} layers, width {model['width']}, {model['dtype']})"),
        ("weights and processor", model["fingerprint"][:16]),
        ("data", data["name"]),
        ("profile", record["profile"]),
        ("parameters", params),
        ("traces", ", ".join(k[:12] for k in record["traces"]) or "none"),
        ("seeds", ", ".join(f"{k} {v}" for k, v in record["seeds"].items()) or "none drawn"),
        ("versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items())),
    ]


def _short(value: Any) -> str:
    if isinstance(value, list):
        words = [str(v) for v in value]
        return "all" if not words else ", ".join(words) if len(words) < 9 else f"{words[0]}, …, {words[-1]} ({len(words)})"
    return "all" if value is None else str(value)
