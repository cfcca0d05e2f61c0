"""The gallery: figures/index.html, one static page for all findings, from the files the runner wrote.

Nothing on the page comes from the network, and everything that comes from a file is escaped. The page holds nothing that differs
between two runs with equal results: when and on which commit a result was made is in its provenance.json.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from safesteer_interp.datasets.dataset import USUAL
from safesteer_interp.errors import InputError
from safesteer_interp.files import read_json, write_text
from safesteer_interp.report.intervals import claim_picture
from safesteer_interp.report.tables import FEW_NOTE, has_flags, interval, is_few, merged, number
from safesteer_interp.runner.folders import RECORD, STATUS_FILES
from safesteer_interp.runner.tables import table_files

SHOWN_ROWS = 150
"""Rows of a table shown on the page; the rest is in its CSV."""
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
    """source, print (the PDF), name and caption of each figure."""
    claims: tuple[dict[str, Any], ...] = ()
    tables: tuple[dict[str, Any], ...] = ()
    downloads: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    scope: str = ""

    @property
    def name(self) -> str:
        return self.model if self.dataset in (USUAL, "") or self.known_answer else f"{self.model} on {self.dataset}"

    @property
    def counts(self) -> dict[str, int]:
        return dict(Counter(c["verdict"] for c in self.claims))


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


VERDICTS = {"supported": "✓", "contradicted": "✗", "undecided": "?"}
"""Verdict -> its mark."""
ROLES = {"null": "null", "paired": "minus", "context": "for comparison"}
"""What a control is -> how the gallery says it."""


def build(figures: Path = Path("figures")) -> Path:
    """Writes `figures/index.html` and returns its path. Raises InputError when there is nothing to show, or a file is damaged."""
    figures = Path(figures)
    findings, checks = collect_findings(figures)
    if not findings and not checks:
        raise InputError(f"no result below {figures}; make some with `safesteer run`.")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cite"] = _cite
    template = environment.from_string(resources("safesteer_interp.report").joinpath("templates/gallery.html.j2").read_text("utf-8"))
    style = resources("safesteer_interp.report").joinpath("templates/gallery.css").read_text("utf-8")
    entries = [e for f in findings for e in f.entries]
    page = template.render(
        style=Markup(style),
        findings=findings,
        checks=checks,
        models=list(dict.fromkeys(e.name for e in entries)),
        totals=Counter(c["verdict"] for e in entries for c in e.claims),
        verdicts=tuple(VERDICTS),
        marks=VERDICTS,
        roles=ROLES,
    )
    target = figures / "index.html"
    write_text(target, page)
    return target


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
        for finding in group.values():
            finding.entries.sort(key=lambda e: (e.model != "mini", e.dataset != "bundled", e.model, e.dataset))
    real, checks = (sorted(g.values(), key=lambda f: (f.order, f.id)) for g in found)
    return real, checks


_ABOUT = {"id": str, "title": str, "question": str, "replicates": str, "cites": list, "order": int}
"""What a finding is told by, and of which kind each is."""


def _check_kinds(about: dict[str, Any], entry: Entry) -> None:
    """Raises TypeError for a record whose fields are there and of another kind: they are sorted, counted and grouped by."""
    fields = [(about[name], kind, name) for name, kind in _ABOUT.items()]
    fields += [(entry.model, str, "model"), (entry.dataset, str, "data")]
    fields += [
        (c[name], str, f"{name} of a claim") for c in entry.claims for name in ("id", "statement", "verdict", "reason", "unit", "note")
    ]
    if wrong := [name for value, kind, name in fields if not isinstance(value, kind)]:
        raise TypeError(f"{wrong[0]} is of another kind")
    known = [(c["verdict"], VERDICTS) for c in entry.claims] + [(k["kind"], ROLES) for c in entry.claims for k in c["controls"]]
    if unknown := [word for word, words in known if word not in words]:
        raise ValueError(f"{unknown[0]!r} is no verdict or control")


def _entry(folder: Path, note: Path | None, figures: Path) -> tuple[dict[str, Any], Entry]:
    slug = f"{folder.parent.name}--{folder.name}".replace("@", "-").replace(".", "-")
    if not (folder / RECORD).is_file() and note is not None:
        record = read_json(note)
        model, _, dataset = folder.name.partition("@")
        about = {"model": model, "dataset": dataset, "known_answer": False, **record}
        status = "failed" if note.name == "failed.json" else "skipped"
        return record["analysis"], Entry(slug, about["model"], about["dataset"], bool(about["known_answer"]), status, str(record["reason"]))
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
        claims=tuple(_claim(c) for c in claims["claims"]),
        tables=tuple(_table(name, t, folder, figures) for name, t in table_files(folder, list(record["tables"])).items()),
        downloads=tuple(
            (p.name, p.relative_to(figures).as_posix()) for p in sorted(folder.iterdir()) if p.suffix[1:] in DOWNLOADS and p.name in ours
        ),
        facts=tuple(_facts(record)),
        scope=claims["scope"],
    )
    return about, entry


def _downloads(folder: Path, ours: set[str]) -> list[str]:
    return [path.name for path in sorted(folder.iterdir()) if path.suffix[1:] in DOWNLOADS and path.name in ours]


def _pictures(folder: Path, about: dict[str, Any], figures: Path, ours: set[str]) -> list[dict[str, str]]:
    paths = sorted((p for p in folder.glob("*.svg") if p.name in ours), key=lambda p: (p.stem != "figure", p.stem))
    shown = []
    for path in paths:
        large = path.stat().st_size > 1_500_000 and path.with_suffix(".png").is_file()
        source = path.with_suffix(".png") if large else path
        caption = about["captions"].get(path.stem, "")
        shown.append(
            {
                "source": source.relative_to(figures).as_posix(),
                "print": path.with_suffix(".pdf").relative_to(figures).as_posix(),
                "name": path.stem,
                "caption": caption,
                "alt": f"{about['title']}: {caption or about['question']}",
            }
        )
    return shown


def _claim(record: dict[str, Any]) -> dict[str, Any]:
    e = record["estimate"]
    threshold = record["threshold"]
    edge = f"{number(threshold[0])} to {number(threshold[1])}" if isinstance(threshold, list) else number(threshold)
    clusters = (
        "" if e["clusters"] is None else f", {e['clusters']} {'draws' if e['kind'] == 'spread' else record['clusters']}{_few(record)}"
    )
    return {
        **record,
        "shown": interval(e["value"], e["low"], e["high"]),
        "counted": f"n = {e['n']}{clusters}",
        "edge": f"{record['direction']} {edge}",
        "controls": [
            {**c, "label": c["name"].replace("_", " "), "shown": interval(*(c["estimate"][k] for k in ("value", "low", "high"))) + _few(c)}
            for c in record["controls"]
        ],
        "picture": claim_picture(record),
    }


def _few(record: dict[str, Any]) -> str:
    return " (few)" if is_few(record["estimate"]["clusters"]) else ""


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


def _cite(source: str) -> Markup:
    """A citation, linked when it is an arXiv id."""
    kind, _, number_ = source.partition(":")
    if kind.lower() == "arxiv" and number_.replace(".", "").isdigit():
        return Markup('<a href="https://arxiv.org/abs/{0}">arXiv {0}</a>').format(number_)
    return Markup("{}").format(source)
