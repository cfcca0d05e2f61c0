"""Words of the command line: lists, and switches that are on, off or left alone."""

from __future__ import annotations


def switched(word: str | None) -> bool | None:
    """What a flag of on and off says; None where it was not given."""
    return None if word is None else word == "on"


def words(text: str) -> list[str]:
    """The parts of a comma-separated flag."""
    return [part.strip() for part in text.split(",") if part.strip()]
