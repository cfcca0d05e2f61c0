"""Stages of a training that do nothing but write down when they ran; a process of their own must be able to import them."""

from __future__ import annotations

import json
import time
from pathlib import Path


def note(folder: Path, stage: str, seconds: float | None) -> None:
    """A stage that takes a moment and writes down when."""
    begun = time.time()
    time.sleep(0.2)
    (folder / f"{stage}.json").write_text(json.dumps({"begun": begun, "ended": time.time(), "seconds": seconds}))
    if stage == "grounded" and (folder / "fail").exists():
        raise ValueError("grounded fails")
