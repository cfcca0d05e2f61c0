"""Pages that are generated when the site is built: from the parser, docstrings, registries, notebooks and the model card."""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import re
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
        **tutorials(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def tutorials() -> dict[str, str]:
    """Every notebook as a page with its outputs, and the list of them."""
    pages, rows = {}, ["# Notebooks\n", "Each runs in under two minutes on two cores; they lie in `notebooks/`, with their outputs.\n"]
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        title = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
        about = next((part for part in "".join(cells[0]["source"]).split("\n\n")[1:] if part.strip()), "")
        rows.append(f"- [{title}]({path.stem}.md): {' '.join(about.split())}")
        pages[f"tutorials/{path.stem}.md"] = "\n\n".join(_cell_page(cell) for cell in cells) + "\n"
    return {"tutorials/index.md": "\n".join(rows) + "\n", **pages}


def _cell_page(cell: dict[str, Any]) -> str:
    """A cell of a notebook as Markdown: its source, and of its outputs pictures, tables and text."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f'<img alt="figure of the cell above" src="data:image/png;base64,{"".join(data["image/png"].split())}">')
        elif "image/svg+xml" in data:
            drawn = base64.b64encode("".join(data["image/svg+xml"]).encode()).decode()
            parts.append(f'<img alt="figure of the cell above" src="data:image/svg+xml;base64,{drawn}">')
        elif "text/html" in data:
            inner = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
            parts.append("<div>" + "".join(line.strip() for line in inner.splitlines()) + "</div>")
        elif "text/markdown" in data:
            parts.append("".join(data["text/markdown"]))
        elif output.get("name") != "stderr" and (text := "".join(output.get("text", data.get("text/plain", ""))).strip()):
            parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts)


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
    parts = ["# Python\n", "What each stage exports; `safesteer_interp` itself exports the names that most tasks in the README need.\n"]
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
    rows += ["\n## Sites and reads by family\n",
             "Sites are called the same on every family (`safesteer list sites`); these are the modules they are read from. `embed` is what"
             " goes into the first layer; reads of images (`image_mean`) need a vision tower, all others every family has.\n",
             "| family | `resid_post.N` | `attn_out.N` | `mlp_out.N` | `final_norm` | vision tower | projector |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, family in FAMILIES.items():
        layout = family.layout
        attn, mlp = layout.attn_adds or layout.attention, layout.mlp_adds or layout.mlp
        paths = [f"{layout.layers}.N", f"….{attn}", f"….{mlp}", layout.final_norm, layout.vision_tower, layout.projector]
        rows.append(f"| {name} | " + " | ".join(f"`{path}`" if path else "–" for path in paths) + " |")
    return "\n".join(rows) + "\n"


def card() -> str:
    """The model card, without its picture's relative path."""
    text = (ROOT / "safesteer_interp/models/mini/MODEL_CARD.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("![")]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
