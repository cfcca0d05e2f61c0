"""What tests of tracing share: the batches that were run, and one small trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.store_job import Job

from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.tracing import plan as planning
from safesteer_interp.tracing.hooks import HooksTracer
from safesteer_interp.tracing.tracer import Captured

Tiny = Callable[[str], MLLM]


@pytest.fixture(scope="module")
def reference(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The uninterrupted run, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "CHUNK", 2)
        return Job(tiny("llama"), tmp_path_factory.mktemp("reference"))


@pytest.fixture
def job(reference: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """The same trace, to be written to an empty store of this test."""
    monkeypatch.setattr(planning, "CHUNK", 2)
    reference.store = tmp_path / "store"
    return reference


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every batch that was really run."""
    ran: list[int] = []
    own = HooksTracer.capture

    def counted(self: HooksTracer, batch: Encoded, *args: Any, **kwargs: Any) -> Captured:
        ran.append(len(batch.requests))
        return own(self, batch, *args, **kwargs)

    monkeypatch.setattr(HooksTracer, "capture", counted)
    return ran
