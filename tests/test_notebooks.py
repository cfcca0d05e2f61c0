"""The notebooks run from top to bottom on mini, as a reader would run them, and are committed with their outputs, plots among them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 240


def without_plots(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first lines of the cells that draw a figure and show none."""
    sources = {"".join(cell["source"]): cell for cell in cells}
    drawing = [source for source in sources if "new_figure(" in source and "def " not in source]
    assert drawing
    shows = {s: any("image/png" in output.get("data", {}) for output in sources[s]["outputs"]) for s in drawing}
    return [source.splitlines()[0] for source, shown in shows.items() if not shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert not without_plots([cell for cell in notebook.cells if cell.cell_type == "code"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_with_its_outputs(path: Path) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells), "run `make notebooks`"
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    assert not without_plots(cells)
