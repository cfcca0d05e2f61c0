"""What a run reports: one result per analysis, and the exit code they add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safesteer_interp.errors import BadRequestError, SafeSteerError

MEASURE_ERRORS: tuple[type[Exception], ...] = (
    SafeSteerError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What an analysis may fail with while the others go on; anything else (Ctrl-C above all) ends the run."""


@dataclass(frozen=True)
class AnalysisResult:
    """How one analysis ended."""

    id: str
    status: str
    """"done", "unchanged" (inputs and files as before), "redrawn" (same numbers, new pictures), "skipped" or "failed"."""
    folder: Path
    reason: str = ""
    """Why it was skipped or failed."""
    note: str = ""
    """What else there is to say, e.g. that it replaced another result."""
    seconds: float = 0.0
    verdicts: Mapping[str, str] = field(default_factory=dict)
    """Claim id -> verdict."""
    exit_code: int = 0
    detail: str = ""
    """Traceback of a failure that is no user error."""

    def taking(self, seconds: float) -> AnalysisResult:
        return replace(self, seconds=seconds)


@dataclass(frozen=True)
class RunReport:
    """How a run ended."""

    results: tuple[AnalysisResult, ...]
    seconds: float
    out: Path
    bad_requests: tuple[str, ...] = ()
    """One sentence for every request that could not be used and was left out."""

    @property
    def failed(self) -> tuple[AnalysisResult, ...]:
        return tuple(r for r in self.results if r.status == "failed")

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, else the largest code among the failures; 3 also when a request had to be left out."""
        return max([*(r.exit_code for r in self.failed), *([BadRequestError.exit_code] if self.bad_requests else [])], default=0)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "seconds": round(self.seconds, 2),
            "out": str(self.out),
            "exit_code": self.exit_code,
            "bad_requests": list(self.bad_requests),
            "results": [
                {
                    "id": r.id,
                    "status": r.status,
                    "folder": str(r.folder),
                    "reason": r.reason or None,
                    "note": r.note or None,
                    "seconds": round(r.seconds, 2),
                    "verdicts": dict(r.verdicts),
                }
                for r in self.results
            ],
        }

    def __str__(self) -> str:
        counts = {s: sum(r.status == s for r in self.results) for s in ("done", "redrawn", "unchanged", "skipped", "failed")}
        lines = [", ".join(f"{n} {s}" for s, n in counts.items() if n) + f" in {self.seconds:.0f} s; results in {self.out}"]
        lines += [f"{r.id}: {r.note}" for r in self.results if r.note]
        lines += [f"failed: {r.id}: {r.reason}" for r in self.failed]
        lines += [f"left out: {sentence}" for sentence in self.bad_requests]
        return "\n".join(lines)
