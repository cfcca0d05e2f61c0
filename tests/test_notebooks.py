"""The notebooks run from top to bottom, as a reader would run them, and are committed with outputs and with the .py they are made of."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
CELL_SECONDS = 240
FEWER = {"01": 6, "02": 6, "03": 8, "04": 8, "07": 24}
"""Pairs with which notebooks on mini are run here: fewer than they are committed with, as `PAIRS` lets any reader choose."""
QUICK = {"01", "06", "08"}
"""Notebooks that run in seconds: the first look, writing a finding, tracers."""
DRAWS = re.compile(r"^fig\w*,.*new_figure\(", re.MULTILINE)


def without_plots(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first lines of the cells that draw a figure and show none."""
    sources = {"".join(cell["source"]): cell for cell in cells}
    drawing = [source for source in sources if DRAWS.search(source) and "def " not in source]
    assert drawing or any("image/svg+xml" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    shows = {s: any("image/png" in output.get("data", {}) for output in sources[s]["outputs"]) for s in drawing}
    return [source.splitlines()[0] for source, shown in shows.items() if not shown]


@pytest.mark.parametrize(
    "path", [pytest.param(p, marks=pytest.mark.slow if p.stem[:2] in QUICK else pytest.mark.long, id=p.stem) for p in NOTEBOOKS]
)
def test_notebook_runs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    if path.stem[:2] in FEWER:
        first.source = re.sub(r"^PAIRS = \d+", f"PAIRS = {FEWER[path.stem[:2]]}", first.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert not without_plots([cell for cell in notebook.cells if cell.cell_type == "code"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_with_its_outputs_and_beside_its_source(path: Path) -> None:
    notebook = json.loads(path.read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells), "run `make notebooks`"
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert not without_plots(cells)
    written = [(cell["cell_type"], cell["source"].strip()) for cell in jupytext.read(path.with_suffix(".py")).cells]
    assert written == [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in notebook["cells"]], "run `make notebooks`"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_begins_with_its_parameters_uses_the_style_sheet(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells[0]["metadata"].get("tags") == ["parameters"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert not any(DRAWS.search(source) for source in sources) or any("use_style()" in source for source in sources)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_uses_every_name_it_makes(path: Path) -> None:
    source = "\n".join("" if line.startswith("%") else line for line in path.with_suffix(".py").read_text().splitlines())
    made, used = set[str](), set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (made if isinstance(node.ctx, ast.Store) else used).add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    fields = {n.target.id for n in ast.walk(ast.parse(source)) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert made - used - fields <= {"_"}
