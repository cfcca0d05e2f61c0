"""The gallery: figures/index.html with the conclusions and all findings, and a static page for each finding beside its results.

Nothing comes from the network: one style sheet and one script lie beside the pages, whose policy lets none run that is written into a
page or comes from elsewhere. Everything that comes from a file is escaped. The pages hold nothing that differs between two runs with
equal results.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files as resources
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from safesteer_interp.errors import SafeSteerWarning
from safesteer_interp.files import write_text
from safesteer_interp.report.claims import KINDS, VERDICTS
from safesteer_interp.report.differences import compare
from safesteer_interp.report.glossary import GLOSSARY, anchor, marked
from safesteer_interp.report.paper import ITEMS
from safesteer_interp.report.readme import overview
from safesteer_interp.report.records import Finding
from safesteer_interp.report.replication import asides, keys_of
from safesteer_interp.report.results import Results

PAGES = {"index.html": "Findings", "replication.html": "The paper, item by item", "models.html": "Models side by side",
         "glossary.html": "Glossary"}  # fmt: skip
"""Pages that stand beside the findings' folders, and what links call them."""
SHARED = ("gallery.css", "gallery.js")
"""The style sheet and the script of all pages, beside them."""
POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; script-src 'self' file:"
"""What a page may load: files beside it, from disk as from a server. Nothing inline, nothing from the network."""
_MARK = '<meta name="generator" content="safesteer report">'
_OURS = (
    _MARK,
    "written by `safesteer report`",
    "No finding on a real model lies here.",
    "<title>Findings: where multimodal models read harm</title>",
)
"""What only a page of this suite holds, of this version or an earlier one."""


def build(figures: Path = Path("figures")) -> Path:
    """Writes the pages and returns the path of `figures/index.html`; pages of findings that are gone are removed.

    A file of a page's name that is not of this suite's making is left as it is, with a warning.
    Raises InputError when there is nothing to show, or a file is damaged.
    """
    figures = Path(figures)
    results = Results(figures)
    pages = {**_shared_files(), **_main_pages(results), **_finding_pages(results), "README.md": overview(results)}
    for name, text in pages.items():
        if _is_ours(figures / name):
            write_text(figures / name, text)
        else:
            said = f"{figures / name} was not written by this suite and is left as it is; rename it to have this page of the gallery there."
            warnings.warn(said, SafeSteerWarning, stacklevel=2)
    for path in sorted(figures.glob("*/*.html")):
        if path.relative_to(figures).as_posix() not in pages and _MARK in path.read_text(encoding="utf-8", errors="replace"):
            path.unlink()
    return figures / "index.html"


def _is_ours(path: Path) -> bool:
    """Whether a page may be written there: nothing is there yet, or a page of ours."""
    if not path.is_file():
        return not path.exists()
    return any(mark in path.read_text(encoding="utf-8", errors="replace") for mark in _OURS)


def _main_pages(results: Results) -> dict[str, str]:
    environment = _environment("")
    compared = compare(results.findings, results.models)
    shared = {"verdicts": VERDICTS, "kinds": KINDS, "items": ITEMS}
    said: dict[str, dict[str, Any]] = {
        "index.html": {"answers": {m: results.answers(m) for m in results.models}, "totals": _totals(results)},
        "replication.html": {"rows": {m: results.replication(m) for m in results.models}},
        "models.html": {"compared": compared, "grouped": [list(rows) for _, rows in groupby(compared, key=lambda row: row.finding.id)]},
        "glossary.html": {"words": GLOSSARY},
    }
    return {name: _render(environment, name, results, title=PAGES[name], page=name, **shared, **said[name]) for name in PAGES}


def _finding_pages(results: Results) -> dict[str, str]:
    environment = _environment("../")
    pages = {}
    for group, name in ((results.findings, "index.html"), (results.checks, "known-answer.html")):
        for place, finding in enumerate(group):
            pages[f"{finding.id}/{name}"] = _render(
                environment, "finding.html", results, title=finding.title, page=f"{finding.id}/{name}", finding=finding,
                check=group is results.checks, file=name, models=_measured(finding), compared=compare([finding], _measured(finding)),
                before=group[place - 1] if place else None, after=group[place + 1] if place + 1 < len(group) else None,
            )  # fmt: skip
    return pages


def _measured(finding: Finding) -> list[str]:
    return [entry.name for entry in finding.entries]


def _totals(results: Results) -> dict[str, dict[str, int]]:
    """Model -> verdict -> how many claims, checks of the machinery left out."""
    found: dict[str, Counter[str]] = {model: Counter() for model in results.models}
    for entry in (e for f in results.findings for e in f.entries):
        found[entry.name].update(entry.counts)
    return {model: dict(counts) for model, counts in found.items()}


def _environment(root: str) -> Environment:
    environment = Environment(
        loader=PackageLoader("safesteer_interp.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"cite": _cite, "anchor": anchor, "paper_items": keys_of, "asides": asides}
    environment.filters |= {"marked": lambda text: marked(str(text), root), "named": lambda text: marked(str(text), None)}
    environment.globals |= {"switch": False, "side_by_side": False, "root": root, "pages": PAGES, "generator": Markup(_MARK)}
    return environment


def _render(environment: Environment, name: str, results: Results, **said: Any) -> str:
    given: Mapping[str, Any] = {
        "results": results,
        "models": results.models,
        "findings": results.findings,
        "checks": results.checks,
        **said,
    }
    return environment.get_template(f"{name}.j2").render(policy=Markup(POLICY), **given)


def _shared_files() -> dict[str, str]:
    folder = resources("safesteer_interp.report") / "templates"
    return {name: folder.joinpath(name).read_text("utf-8") for name in SHARED}


def _cite(source: str) -> Markup:
    """A citation, linked when it is an arXiv id."""
    kind, _, number_ = source.partition(":")
    if kind.lower() == "arxiv" and number_.replace(".", "").isdigit():
        return Markup('<a href="https://arxiv.org/abs/{0}">arXiv {0}</a>').format(number_)
    return Markup("{}").format(source)
