"""The house keeps its plan: no circle of imports (deferred ones included), small modules, tests that mirror the package."""

from __future__ import annotations

import statistics
from pathlib import Path

import grimp
import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "safesteer_interp"


@pytest.fixture(scope="module")
def imports() -> nx.DiGraph:
    """Every import between modules of the package, wherever in a file it stands; those for type checkers alone are left out."""
    graph = grimp.build_graph("safesteer_interp", exclude_type_checking_imports=True, cache_dir=None)
    found = nx.DiGraph()
    found.add_nodes_from(graph.modules)
    found.add_edges_from((one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one))
    return found


def test_no_module_reaches_itself(imports: nx.DiGraph) -> None:
    circles = [sorted(part) for part in nx.strongly_connected_components(imports) if len(part) > 1]
    assert not circles, circles


def test_the_check_sees_deferred_imports(imports: nx.DiGraph) -> None:
    """`cli.run` reaches the runner only inside a function: were such imports invisible, the test above could not fail."""
    source = (PACKAGE / "cli" / "run.py").read_text()
    assert "\n    from safesteer_interp import runner" in source
    assert imports.has_edge("safesteer_interp.cli.run", "safesteer_interp.runner")


def test_modules_are_small() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert max(lengths.values()) <= 400
    assert statistics.median(lengths.values()) <= 120


def test_tests_lie_where_what_they_test_lies() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()} | {"findings", "support"}
    odd = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py") if len(path.relative_to(ROOT / "tests").parts) > 1
           and path.relative_to(ROOT / "tests").parts[0] not in rooms]  # fmt: skip
    assert not odd, odd
