"""One small trace that tests of the store write, interrupt and compare."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.tracing.collecting import collect
from support.tracing import requests_for

Tiny = Callable[[str], MLLM]
N = 24


class Job:
    """One small trace: 24 requests in 12 shards, with the bytes it should end with."""

    def __init__(self, mllm: MLLM, root: Path) -> None:
        self.mllm = mllm
        self.requests = requests_for(mllm, N)
        self.reference = root / "reference"
        self.store = root / "store"
        started = time.monotonic()
        self.trace = self.run(self.reference)
        self.seconds = time.monotonic() - started

    def run(self, store: Path | None = None, **changes: Any) -> Any:
        options = {"tracer": "hooks", "reads": "last_prompt,step:1", "progress": False, "batch_size": 2} | changes
        return collect(self.mllm, self.requests, store=store or self.store, **options)

    @property
    def folder(self) -> Path:
        return self.store / self.trace.key

    def bytes_of(self, store: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((store / self.trace.key).iterdir())}

    def is_reference(self) -> bool:
        return self.bytes_of(self.store) == self.bytes_of(self.reference)

    def in_child(self, work: Callable[[], object]) -> int:
        """Run `work` in a forked child; returns its process id. The child leaves without touching the test run."""
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        return child


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)
