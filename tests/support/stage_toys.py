"""Stages of a training that do nothing but write down when they ran; a process of their own must be able to import them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from safesteer_interp.mini_training.stages import run_apart


def note(folder: Path, stage: str, seconds: float | None) -> None:
    """A stage that takes a moment and writes down when."""
    begun = time.time()
    time.sleep(0.2)
    (folder / f"{stage}.json").write_text(json.dumps({"begun": begun, "ended": time.time(), "seconds": seconds}))
    if stage == "grounded" and (folder / "fail").exists():
        raise ValueError("grounded fails")


def wait_long(folder: Path, stage: str, _seconds: float | None) -> None:
    """A stage that outlasts every test, once it has said that it began."""
    (folder / stage).touch()
    time.sleep(600)


def die(_folder: Path, _stage: str, _seconds: float | None) -> None:
    """A stage whose process the system kills."""
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # what a shell starts in the background ignores Ctrl-C, and so does all that it starts: the tests too
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_apart(["grounded", "unaligned"], partial(wait_long, Path(sys.argv[1])), 2, lambda: None, lambda _: None)
