"""Pages that are generated when the site is built: from the parser, the docstrings, the registries and the model card."""

from __future__ import annotations

import contextlib
import importlib
import io
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
STAGES = (
    "datasets", "models", "tracing", "probes", "vectors", "steering", "interventions", "decoding", "defenses", "evaluation",
    "runner", "report",
)  # fmt: skip


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    pages = {
        "reference/commands.md": commands(),
        "reference/python.md": python(),
        "reference/findings.md": findings(),
        "reference/paper.md": paper(),
        "reference/datasets.md": datasets(),
        "reference/models.md": models(),
        "cards/mini.md": card(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def paper() -> str:
    """The replication table, from the results of this checkout."""
    from safesteer_interp.report import paper_page

    return paper_page(ROOT / "figures")


def commands() -> str:
    """Help of every command, as the parser prints it."""
    from safesteer_interp.cli import COMMANDS, main

    parts = ["# Commands\n"]
    for name, (_, line) in COMMANDS.items():
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([name, "--help"])
        parts.append(f"## safesteer {name}\n\n{line[0].upper()}{line[1:]}.\n\n```text\n{text.getvalue().strip()}\n```\n")
    return "\n".join(parts)


def python() -> str:
    """What every stage exports, from its docstrings."""
    parts = ["# Python\n", "What each stage exports; `safesteer_interp` itself exports the names of the five tasks in the README.\n"]
    for stage in STAGES:
        package = importlib.import_module(f"safesteer_interp.{stage}")
        first = (package.__doc__ or "").strip().splitlines()[0]
        parts.append(f"## safesteer_interp.{stage}\n\n{first}\n")
        for name in sorted(package.__all__):
            found = getattr(package, name)
            where = getattr(found, "__module__", "") or ""
            if callable(found) and where.startswith("safesteer_interp."):
                parts.append(f"::: {where}.{getattr(found, '__qualname__', name)}\n")
    return "\n".join(parts)


def findings() -> str:
    """Every analysis that is shipped: question, what it repeats, the papers."""
    from safesteer_interp.runner import discover

    rows = ["# Findings\n", "| id | question | repeats | papers |", "|---|---|---|---|"]
    for analysis in discover(None).choose([]):
        papers = ", ".join(f"[{c}](https://arxiv.org/abs/{c.split(':')[1]})" if c.startswith("arXiv:") else c for c in analysis.cites)
        rows.append(f"| `{analysis.id}` | {_cell(analysis.title)} | {_cell(analysis.replicates or '')} | {papers} |")
    return "\n".join(rows) + "\n"


def datasets() -> str:
    """The registry of data sets, with licences and citations."""
    from safesteer_interp.datasets.registry import DATASETS

    rows = ["# Data sets\n", "| name | what | licence | citation |", "|---|---|---|---|"]
    for name, entry in DATASETS.items():
        rows.append(f"| `{name}` | {_cell(entry.title)} | {_cell(entry.licence)} | {_cell(entry.citation)} |")
    return "\n".join(rows) + "\n"


def models() -> str:
    """Supported families, and how each is tested."""
    from safesteer_interp.models import available_models
    from safesteer_interp.models.families import FAMILIES
    from safesteer_interp.models.families.layouts import OTHERWISE
    from safesteer_interp.models.families.tested import how_tested

    rows = ["# Models\n", "| name | |", "|---|---|", *(f"| `{name}` | {_cell(line)} |" for name, line in available_models().items())]
    rows += ["\n## Families\n", "| family | model types | images | TransformerLens | image tokens can be capped | tested with |"]
    rows.append("|---|---|---|---|---|---|")
    for name, family in FAMILIES.items():
        layout = family.layout
        yes = {True: "yes", False: "no"}
        types = ", ".join(f"`{t}`" for t in layout.model_types)
        capped = yes[layout.image_size != "fixed"]
        line = how_tested(name).removeprefix("tested with: ")
        rows.append(f"| {name} | {types} | {yes[layout.vision_tower is not None]} | {yes[layout.bridge]} | {capped} | {_cell(line)} |")
    rows += ["\n## Not supported\n", "| model type | why |", "|---|---|"]
    rows += [f"| `{kind}` | {_cell(why)} |" for kind, why in OTHERWISE.items()]
    return "\n".join(rows) + "\n"


def card() -> str:
    """The model card, without its picture's relative path."""
    text = (ROOT / "safesteer_interp/models/mini/MODEL_CARD.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("![")]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
