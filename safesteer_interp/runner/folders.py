"""Result folders: what they are called, so that no two sources share one, and which of their files the suite wrote.

A named model ("mini", a hub id) and a named data set are called as they are. What comes from a path is called by the last part of the
path and eight digits of where it lies, for two checkpoints may both be `checkpoint-500`. Only files in the record of a folder
(`files` in its provenance.json) are ever removed from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.dataset import USUAL
from safesteer_interp.errors import InputError
from safesteer_interp.files import read_json, safe_name

RECORD = "provenance.json"
STATUS_FILES = ("failed.json", "skipped.json")
"""What is left in place of a result, or beside an older one, when there is none."""


def folder_name(model: str, dataset: str = USUAL, *, usual: str = USUAL) -> str:
    """Folder of a model's results: "mini", or "mini@figstep" when the data are not the model's `usual` ones. Safe on every file system."""
    return safe_name(model) if dataset == usual else f"{safe_name(model)}@{data_label(dataset)}"


def model_label(name: str, source: str, fingerprint: str) -> str:
    """A name that tells a model from others of its name: with the place of its folder, its revision, or the fingerprint of one from memory.

    What is named otherwise than its folder (`mini`, which lies in the cache) has a name of its own already.
    """
    if source == "memory":
        return f"{name}-{fingerprint[:8]}"
    _, found, revision = source.partition(", revision ")
    if found and revision not in ("", "main"):
        return f"{name}-{revision}"
    return f"{name}-{_place(Path(source))}" if source and Path(source).resolve().name == name else name


def thinking_label(thinking: bool | None) -> str:
    """What is put behind a model's name when its thinking was switched on or off; nothing when that was left to its template."""
    return "" if thinking is None else f"-thinking-{'on' if thinking else 'off'}"


def data_label(dataset: str) -> str:
    """The same of a data set: its name, or the name of its file with the place where it lies."""
    path = Path(dataset)
    return safe_name(f"{path.stem}-{_place(path)}") if path.suffix == ".jsonl" else safe_name(dataset)


def _place(path: Path) -> str:
    return sha256(str(path.expanduser().resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def written_files(folder: Path, record: Mapping[str, Any] | None = None) -> set[str]:
    """Names of the files in a result folder that the suite wrote, by its own record; empty where there is no readable record.

    Results from before there was such a record name their tables only.
    """
    if record is None:
        try:
            record = read_json(folder / RECORD)
        except InputError:
            return set()
    listed = record.get("files")
    return set(listed) if listed is not None else {f"{name}.{kind}" for name in record.get("tables", {}) for kind in ("csv", "tex", "md")}


def remove_stale(folder: Path, old: Iterable[str], kept: Iterable[str]) -> None:
    """Removes the files of an `old` record that are not `kept`; a name that leads out of the folder is passed over."""
    for name in set(old) - {*kept, RECORD}:
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
