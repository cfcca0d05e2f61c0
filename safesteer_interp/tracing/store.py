"""The store: one folder per trace key, holding a manifest, the request index and content-hashed shards.

    <root>/<key>/manifest.json  index.json  shard-00000.safetensors ...

Every file is written atomically, the manifest last, so that a run killed at any moment resumes where it was and ends with the same
bytes as one that was never killed. A shard whose hash is not the manifest's is computed anew, and only that one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from torch import Tensor

from safesteer_interp.errors import InputError, did_you_mean
from safesteer_interp.files import cannot_write, json_bytes, write_bytes
from safesteer_interp.paths import cache_dir
from safesteer_interp.progress import notice
from safesteer_interp.tracing.key import FORMAT
from safesteer_interp.tracing.shards import FileShard, shard_bytes
from safesteer_interp.tracing.trace import Trace

__all__ = ["Folder", "Store", "Trace"]

NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP})
"""What a file system without locks answers; where it has none of the call itself, filelock takes a lock file instead."""


_STARTED = secrets.token_hex(8)


def _this_process() -> str:
    """Host, process id, and what was drawn when the process began: in containers many processes have the same id, and a host's name too.

    A forked child has the drawn part of its parent, and an id of its own.
    """
    return f"{platform.node().replace(' ', '-') or 'localhost'} {os.getpid()} {_STARTED}"


def _named(owner: str) -> str:
    """A process in a sentence: its id, and its host where that is another one."""
    host, _, rest = owner.rpartition(" ")[0].partition(" ")
    if not rest:  # nothing yet, or the id alone, as earlier versions wrote it
        return f"process {owner or 'unknown'}"
    return f"process {rest}" if host == _this_process().partition(" ")[0] else f"process {rest} on {host}"


def _dump(record: dict[str, Any]) -> bytes:
    return json_bytes(record, indent=1, sort_keys=True)


@dataclass
class Folder:
    """One trace on disk while it is written: which shards are there, and their hashes."""

    path: Path
    key: str
    fields: dict[str, Any]
    """What the key was made of, without the requests."""
    meta: dict[str, Any]
    cut: tuple[tuple[int, ...], ...]
    """Rows of each shard. Kept, since rows of like form go together, and what tells the form is no part of the key."""
    index_hash: str = ""
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def n_shards(self) -> int:
        return len(self.cut)

    @staticmethod
    def shard_name(number: int) -> str:
        return f"shard-{number:05d}.safetensors"

    def shard(self, number: int) -> FileShard:
        name = self.shard_name(number)
        return FileShard(self.path / name, self.hashes.get(name, ""))

    def has(self, number: int) -> bool:
        """Whether this shard is finished and undamaged."""
        return self.shard_name(number) in self.hashes and self.shard(number).sound()

    def write_index(self, requests: pd.DataFrame, contents: Sequence[str]) -> None:
        """Write the labels and contents of the rows, unless they are there already with the same bytes."""
        data = _dump({"columns": list(requests.columns), "rows": requests.to_numpy().tolist(), "contents": list(contents)})
        self.index_hash = hashlib.sha256(data).hexdigest()
        path = self.path / "index.json"
        if not path.is_file() or path.read_bytes() != data:
            write_bytes(path, data)

    def read_index(self) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Labels and contents of the rows. Raises InputError when the file is missing or damaged."""
        path = self.path / "index.json"
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != self.index_hash:
            raise InputError(f"{path} is missing or damaged; run the same trace command again: it is rebuilt without a forward.")
        record = json.loads(data)
        return pd.DataFrame(record["rows"], columns=record["columns"]), tuple(record["contents"])

    def add(self, number: int, tensors: dict[str, Tensor], texts: list[str]) -> None:
        """Write a finished shard, then the manifest that vouches for it."""
        data = shard_bytes(tensors, texts)
        name = self.shard_name(number)
        write_bytes(self.path / name, data)
        self.hashes[name] = hashlib.sha256(data).hexdigest()
        self.save()

    def save(self) -> None:
        """Write the manifest."""
        record = {
            "key": self.key,
            "fields": self.fields,
            "meta": self.meta,
            "cut": self.cut,
            "index": self.index_hash,
            "shards": self.hashes,
        }
        record["check"] = hashlib.sha256(_dump(record)).hexdigest()
        write_bytes(self.path / "manifest.json", _dump(record))

    @classmethod
    def load(cls, path: Path) -> Folder:
        """Read a manifest. Raises InputError when it is missing, damaged or half-understood."""
        file = path / "manifest.json"
        try:
            record = json.loads(file.read_bytes())
            check = record.pop("check")
            if hashlib.sha256(_dump(record)).hexdigest() != check:
                raise ValueError("its own hash is wrong")
            form = record["fields"].get("format")
            if form != FORMAT:
                raise InputError(
                    f"{path} was stored by another version of this suite (form {form}; this one reads form {FORMAT}); "
                    "trace again, and delete the folder if you like."
                )
            cut = tuple(tuple(rows) for rows in record["cut"])
            return cls(path, record["key"], record["fields"], record["meta"], cut, record["index"], record["shards"])
        except FileNotFoundError:
            raise InputError(f"{path} is not a stored trace: it has no manifest.json.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
            raise InputError(f"{file} is damaged ({cause}); run the same trace command again to rebuild it.") from None


class Store:
    """Traces by key under one folder (default: the user cache)."""

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = Path(root) if root is not None else cache_dir() / "traces"

    def path(self, key: str) -> Path:
        """Folder of a trace."""
        return self.root / key

    def keys(self) -> list[str]:
        """Keys of all traces here, finished or not."""
        return sorted(found.parent.name for found in self.root.glob("*/manifest.json"))

    def open(self, key: str) -> Trace:
        """A finished trace; shards are checked against their hashes as they are touched.

        Raises InputError when there is none, when it is unfinished (saying how far it is) or damaged.
        """
        if not (self.path(key) / "manifest.json").exists():
            raise InputError(f'{self.root} holds no trace "{key}".{did_you_mean(key, self.keys())} Make it with `safesteer trace`.')
        folder = Folder.load(self.path(key))
        if len(folder.hashes) < folder.n_shards:
            raise InputError(
                f"trace {key} is unfinished ({len(folder.hashes)} of {folder.n_shards} shards); run the same trace command: it resumes."
            )
        requests, contents = folder.read_index()
        return Trace(key, folder.fields, folder.meta, requests, [folder.shard(i) for i in range(folder.n_shards)], contents)

    def opened(self, key: str) -> Trace | None:
        """A finished trace whose every file has been checked; None when there is none, or when anything of it is damaged."""
        try:
            trace = self.open(key)
        except InputError:
            return None
        return trace if all(shard.sound() for shard in trace.shards) else None

    def holds(self, key: str, n_shards: int) -> bool:
        """Whether all files of a finished trace are there; what they hold is looked at when they are opened."""
        path = self.path(key)
        return (path / "manifest.json").is_file() and all((path / Folder.shard_name(i)).is_file() for i in range(n_shards))

    def begun(self, key: str) -> Folder | None:
        """The folder of a trace, finished or not; None when there is none that can be used."""
        try:
            return Folder.load(self.path(key))
        except InputError:
            return None

    @contextmanager
    def claim(self, key: str, fields: dict[str, Any], meta: dict[str, Any], cut: tuple[tuple[int, ...], ...]) -> Iterator[Folder]:
        """The trace's folder, ours alone while open. While another run writes it we wait, saying so; a killed run's lock is free again.

        Raises InputError when this very process is writing it (in another thread) or the folder cannot be written.
        """
        path = self.path(key)
        locks = self.root / ".locks"
        try:
            path.mkdir(parents=True, exist_ok=True)
            locks.mkdir(exist_ok=True)
            lock = FileLock(locks / f"{key}.lock")
            owner = locks / f"{key}.pid"
            try:
                lock.acquire(timeout=0)
            except Timeout:
                writing = owner.read_text().strip() if owner.exists() else ""
                if writing == _this_process():
                    raise InputError(f"another thread of this process is writing trace {key}; let it end first.") from None
                notice(
                    f"another run ({_named(writing)}) is writing trace {key}; waiting, since what it finishes is used here "
                    "(Ctrl-C ends this)."
                )
                lock.acquire()
        except OSError as cause:
            if cause.errno in NO_LOCKS:
                raise InputError(
                    f"the file system of {self.root} gives no locks ({cause.strerror}), which keep two runs from writing one trace; "
                    "give a folder on another one with --store (SAFESTEER_CACHE), or mount this one with locks."
                ) from None
            raise cannot_write(path / "manifest.json", cause) from None
        try:
            write_bytes(owner, _this_process().encode())
            for leftover in path.glob(".*.tmp"):
                leftover.unlink()
            yield self._resume(Folder(path, key, fields, meta, cut))
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def _resume(self, fresh: Folder) -> Folder:
        """The folder with what an earlier run left in it; a manifest that is missing or damaged vouches for nothing."""
        known = self.begun(fresh.key)
        if known is not None and (known.key, known.cut) == (fresh.key, fresh.cut):
            fresh.hashes = known.hashes
        return fresh
