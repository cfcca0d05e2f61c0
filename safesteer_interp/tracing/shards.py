"""Shards: the files a trace is made of. Each is written whole or not at all, and carries its own texts.

A shard holds the rows of up to `key.CHUNK` requests: `states/<site>/<read>` [rows, d], `present/<read>` [rows], `row` (position in
the index), `prompt_length`, `generated` (flat ids) with `generated_length`, and `logits` [rows, vocab] when asked. Safetensors,
never pickle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.files import sha256_of

_META = "texts"  # one metadata entry only: safetensors writes several in no fixed order, and bytes must repeat


@runtime_checkable
class Shard(Protocol):
    """Rows of a trace, in a file or in memory."""

    def tensor(self, name: str) -> Tensor: ...

    def texts(self) -> list[str]: ...

    def sound(self) -> bool: ...


@dataclass
class MemoryShard:
    """Rows that were never stored."""

    tensors: dict[str, Tensor]
    answers: list[str]

    def tensor(self, name: str) -> Tensor:
        return self.tensors[name]

    def texts(self) -> list[str]:
        return self.answers

    def sound(self) -> bool:
        return True


@dataclass
class FileShard:
    """Rows on disk; the file's hash is checked when it is first touched."""

    path: Path
    sha256: str
    _checked: bool = field(default=False, repr=False)

    def sound(self) -> bool:
        """Whether the file is there and its bytes are those that were written."""
        try:
            self._checked = sha256_of(self.path) == self.sha256
        except FileNotFoundError:
            self._checked = False
        except OSError as cause:
            raise InputError(f"shard {self.path} cannot be read ({cause.strerror}); check the disk and its permissions.") from None
        return self._checked

    def _check(self) -> None:
        if not self._checked and not self.sound():
            raise InputError(
                f"shard {self.path} is missing or damaged (its hash is not the manifest's); "
                "run the same trace command again: only this shard is computed anew."
            )

    def tensor(self, name: str) -> Tensor:
        self._check()
        try:
            with safe_open(self.path, framework="pt") as file:
                return file.get_tensor(name)
        except SafetensorError as cause:
            raise InputError(f'shard {self.path} does not hold "{name}" ({cause}); capture the trace again.') from None

    def texts(self) -> list[str]:
        self._check()
        with safe_open(self.path, framework="pt") as file:
            return list(json.loads(file.metadata()[_META]))


def shard_bytes(tensors: dict[str, Tensor], texts: list[str]) -> bytes:
    """The file's content; the same rows always give the same bytes."""
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    return save(ordered, metadata={_META: json.dumps(texts, ensure_ascii=False)})
