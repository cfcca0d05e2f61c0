"""Toy analyses run on the known-answer model, for tests of running and verifying."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.analysis_toys import bench_on, write_toys

from safesteer_interp import runner
from safesteer_interp.report import render_folder
from safesteer_interp.runner import provenance, source


@pytest.fixture
def run(planted: Any, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs toy analyses into tmp_path/figures with one store per test; the package counts as unchanged while a test runs."""
    monkeypatch.setattr(provenance, "measuring_code", lambda path: "measuring")
    monkeypatch.setattr(source, "drawing_code", lambda: "drawing")

    def call(*names: str, ids: tuple[str, ...] = (), session: Any = None, **options: Any) -> Any:
        folder = write_toys(tmp_path, *names)
        ids = ids or tuple(path.stem for path in folder.glob("[!_]*.py"))  # without an id the shipped findings would run too
        options = {"out": tmp_path / "figures", "render": render_folder, "folder": folder, **options}
        report = runner.run(ids, session=session or bench_on(planted, tmp_path), **options)
        for failed in report.failed:
            print(failed.detail or failed.reason)
        return report

    return call
