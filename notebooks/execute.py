"""Executes the notebooks: each NN_name.py (percent format) becomes NN_name.ipynb with outputs. `make notebooks`, or with names as arguments.

What differs from run to run and says nothing (times of cells, lines of progress, the state of widgets) is left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
SECONDS = 240
"""Longest that a cell may take."""
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(source: Path) -> Path:
    """Runs one notebook from top to bottom and writes it beside its source."""
    notebook = jupytext.read(source)
    notebook.metadata = nbformat.from_dict(METADATA)
    NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(source.parent)}}).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == "tags"})
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_progress(output)]
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


def is_progress(output: nbformat.NotebookNode) -> bool:
    """Lines and bars that are there to be watched, not to be read."""
    text = "".join(output.get("text", output.get("data", {}).get("text/plain", ""))).strip()
    return text.startswith("tracing ") or "it/s]" in text or (output.get("name") == "stderr" and "%|" in text)


if __name__ == "__main__":
    for path in sorted(HERE.glob("[0-9]*.py")):
        if not sys.argv[1:] or any(path.name.startswith(name) for name in sys.argv[1:]):
            print(execute(path).name, flush=True)
