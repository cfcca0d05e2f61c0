"""Workers of one run take turns at making the same thing."""

from __future__ import annotations

import errno
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from safesteer_interp.turns import WORKER, in_turn


def test_a_turn_is_ours_alone_among_workers_and_ends_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with in_turn(tmp_path, "k") as first, in_turn(tmp_path, "k", wait=False) as second:
        assert first and second and not list(tmp_path.iterdir()), "a run of one process locks nothing"
    monkeypatch.setenv(WORKER, "process-1")
    with in_turn(tmp_path, "k") as first, in_turn(tmp_path, "k", wait=False) as second, in_turn(tmp_path, "other", wait=False) as third:
        assert (first, second, third) == (True, False, True)
    with in_turn(tmp_path, "k", wait=False) as again:
        assert again
    monkeypatch.setattr("safesteer_interp.turns.FileLock.acquire", MagicMock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    with in_turn(tmp_path, "k") as first, in_turn(tmp_path, "k") as second:
        assert first and second, "without locks nobody waits"
