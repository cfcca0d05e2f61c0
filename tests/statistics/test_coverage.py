"""Intervals cover: simulated coverage of the nominal 95 % lies within 0.93 to 0.97 by estimator and number of clusters, seeds fixed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks its module up
    spec.loader.exec_module(module)
    return module


COVERAGE = _load()
HELD = [case for case in COVERAGE.cases() if case.held]
NOISE = {2000: 0.006, 150: 0.04}
"""What the number of draws alone may move a coverage by."""


@pytest.fixture(autouse=True)
def without_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage needs no p, and the flips of thousands of samples take most of the time."""
    import safesteer_interp.statistics.aurocs as aurocs
    import safesteer_interp.statistics.means as means

    monkeypatch.setattr(means, "flip_p", lambda *_, **__: 1.0)
    monkeypatch.setattr(aurocs, "exchanged_labels", lambda labels, *_: labels[None])


@pytest.mark.simulation
@pytest.mark.parametrize("groups", COVERAGE.CLUSTERS)
@pytest.mark.parametrize("case", HELD, ids=lambda c: c.name)
def test_coverage(case: Any, groups: int) -> None:
    found = COVERAGE.coverage(case, groups, 2000)
    assert 0.93 - NOISE[2000] <= found <= (case.widest if groups <= 12 else 0.97) + NOISE[2000]


@pytest.mark.parametrize("groups", [12, 48])
@pytest.mark.parametrize("case", HELD, ids=lambda c: c.name)
def test_coverage_roughly(case: Any, groups: int) -> None:
    found = COVERAGE.coverage(case, groups, 150)
    assert found >= 0.93 - NOISE[150]


def test_a_percentile_bootstrap_would_fail() -> None:
    import numpy as np

    from safesteer_interp import statistics as s

    hits = 0
    for r in range(400):
        x = np.random.default_rng(r).normal(size=8)
        found = s.cluster_bootstrap(np.mean, x, np.arange(8), replicates=200, method="percentile")
        hits += found.low <= 0 <= found.high
    assert hits / 400 < 0.92
