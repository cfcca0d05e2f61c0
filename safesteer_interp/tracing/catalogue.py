"""The catalogue of a store: which finished trace holds what, of which requests; one small file per trace, so that workers may share it.

<store>/catalogue/<hash of what all traces of a model and tracer share>/<trace key>.json
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safesteer_interp.files import write_json
from safesteer_interp.tracing.demand import Demand


@dataclass(frozen=True)
class StoredTrace:
    """What a finished trace holds. `contents[i]` is what its row i was made of (`tracing/contents.py`)."""

    key: str
    demand: Demand
    contents: tuple[str, ...]
    n_shards: int

    @cached_property
    def rows(self) -> dict[str, int]:
        """Content -> row."""
        return {content: row for row, content in enumerate(self.contents)}

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"key": self.key, "demand": self.demand.record(), "contents": list(self.contents), "n_shards": self.n_shards}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> StoredTrace:
        """The inverse of `record`, after JSON. Raises TypeError, KeyError or ValueError for what `record` does not write."""
        found = cls(record["key"], Demand.from_record(record["demand"]), tuple(record["contents"]), int(record["n_shards"]))
        d = found.demand
        texts = (found.key, *found.contents, d.dataset, *d.sites, *d.reads, *d.edits)
        numbers = (d.max_new_tokens, d.temperature, d.seed)
        lists = (record["contents"], *(record["demand"][name] for name in ("sites", "reads", "edits")))
        sound = all(isinstance(text, str) for text in texts) and all(isinstance(number, int | float) for number in numbers)
        if not sound or not isinstance(d.logits, bool) or not all(isinstance(each, list) for each in lists):
            raise TypeError("a field of this catalogue entry is of another kind")
        return found


class Catalogue:
    """The finished traces of one model and tracer. What other processes add or remove meanwhile is seen; a damaged file is passed over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, StoredTrace | None] = {}

    def traces(self) -> list[StoredTrace]:
        """All that is listed, by key."""
        names = sorted(path.name for path in self.folder.glob("*.json"))
        self._read = {name: self._read[name] if name in self._read else self._load(name) for name in names}
        return [trace for trace in self._read.values() if trace is not None]

    def _load(self, name: str) -> StoredTrace | None:
        try:
            return StoredTrace.from_record(json.loads((self.folder / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def add(self, trace: StoredTrace) -> None:
        """Lists a finished trace; listing it again changes nothing."""
        if trace not in self.traces():
            write_json(self.folder / f"{trace.key}.json", trace.record(), indent=0)
            self._read.pop(f"{trace.key}.json", None)

    def remove(self, trace: StoredTrace) -> None:
        """Takes a trace that cannot be opened any more off the list."""
        (self.folder / f"{trace.key}.json").unlink(missing_ok=True)


def fewest(traces: Iterable[StoredTrace], contents: Iterable[str]) -> dict[str, StoredTrace]:
    """For each content that some trace holds, one that does: those that hold most come first, so that few traces are opened."""
    left, usable, found = set(contents), sorted(traces, key=lambda trace: trace.key), dict[str, StoredTrace]()
    while left and usable:
        best = max(usable, key=lambda trace: len(left & trace.rows.keys()))
        taken = left & best.rows.keys()
        if not taken:
            break
        found |= dict.fromkeys(taken, best)
        left -= taken
        usable.remove(best)
    return found
