"""Shards that several processes, or several machines, make of one trace, each on its own: no lock, no order, nothing to merge.

    <root>/<key>/parts/<frame>/shard-00003.safetensors + shard-00003.json (its hash)

Process i of n makes the shards i, i + n, i + 2n, ...; whoever asks for the whole trace afterwards takes over what lies there and makes
only what is missing. A shard is written whole and its hash after it, so that a worker killed at any moment leaves nothing half done;
two workers that make the same shard write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import write_bytes, write_json
from safesteer_interp.tracing.shards import FileShard, shard_bytes
from safesteer_interp.tracing.store import Folder

_PART = re.compile(r"^\s*([0-9]+)\s*/\s*([0-9]+)\s*$")


@dataclass(frozen=True)
class Share:
    """One of several equal parts of some work."""

    number: int
    """From 0."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Share of "2/8", the second of eight. Raises UsageError for anything else."""
        match = _PART.match(text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f'--part "{text}" is no part; write for example 2/8 for the second of eight.')
        return cls(int(match[1]) - 1, int(match[2]))

    def mine(self, n: int) -> range:
        """Which of n things are this part's."""
        return range(self.number, n, self.of)

    def __str__(self) -> str:
        return f"{self.number + 1}/{self.of}"


class Parts:
    """The shards that lie ready for one trace, cut in one way."""

    def __init__(self, trace: Path, cut: tuple[tuple[int, ...], ...]) -> None:
        frame = hashlib.sha256(json.dumps(cut).encode()).hexdigest()[:12]
        self.folder = trace / "parts" / frame

    def add(self, number: int, tensors: dict[str, Tensor], texts: list[str]) -> None:
        """Leave a finished shard. Raises InputError when it cannot be written."""
        data = shard_bytes(tensors, texts)
        path = self.folder / Folder.shard_name(number)
        write_bytes(path, data)
        write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(data).hexdigest()})

    def has(self, number: int) -> bool:
        """Whether this shard is finished and undamaged."""
        return bool(self._hash(number))

    def move(self, number: int, to: Folder) -> bool:
        """Hand a shard over to the trace's folder, which its caller has claimed; False when there is none that is sound."""
        sha256 = self._hash(number)
        if not sha256:
            return False
        path = self.folder / Folder.shard_name(number)
        to.hashes[path.name] = sha256
        to.save()  # first: killed in between, the shard still lies here and is moved the next time
        path.replace(to.path / path.name)
        return True

    def clear(self) -> None:
        """Remove what was left behind, once the trace is whole."""
        for path in self.folder.glob("shard-*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another cut's parts, or a worker that is still at it
            self.folder.rmdir()
            self.folder.parent.rmdir()

    def _hash(self, number: int) -> str:
        path = self.folder / Folder.shard_name(number)
        try:
            sha256 = str(json.loads(path.with_suffix(".json").read_bytes())["sha256"])
            return sha256 if path.is_file() and FileShard(path, sha256).sound() else ""
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return ""
