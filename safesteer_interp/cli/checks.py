"""What a doctor's report is made of: lines, each with a topic, a name, a status, and what was found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth knowing, stops nothing
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report."""

    topic: str
    """"versions", "disk", "model", ..."""
    name: str
    status: Status
    detail: str
    """What was found and, where something is wrong, what to do."""
    value: float | None = None
    """The number behind it, where there is one (relative difference, free bytes)."""
