"""Files: one way to write a file whole or not at all, one hash, one JSON, and sentences for disks that say no."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safesteer_interp.errors import InputError, UsageError

_CHUNK = 1 << 22
LONGEST = 120
"""Characters of a file name that are kept."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: a temporary file in the same folder, flushed to the disk, renamed, the folder flushed too.

    Folders above are made. Raises InputError when the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as cause:
        raise cannot_write(path, cause) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, record: Any, *, indent: int = 2, sort_keys: bool = False) -> None:
    """Writes indented JSON, whole or not at all; keys keep the order given unless sorted."""
    write_bytes(path, json_bytes(record, indent=indent, sort_keys=sort_keys))


def json_bytes(record: Any, *, indent: int = 2, sort_keys: bool = False) -> bytes:
    """Indented UTF-8 JSON with a line feed at its end. Raises ValueError for NaN and infinity, which JSON has not."""
    return json.dumps(record, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_json(path: Path) -> Any:
    """Raises InputError, naming the file, when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the analysis again with `safesteer run`.") from None
    except (OSError, ValueError) as cause:
        raise InputError(f"{path} is not readable as JSON ({cause}); run the analysis again with `safesteer run`.") from None


def cannot_write(path: Path, cause: OSError) -> InputError:
    """The sentence for a write that failed: what, why, and that everything finished is safe."""
    if cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"no space is left to write {path}; everything finished is kept. Free some space, or set SAFESTEER_CACHE or --store "
            "to another disk, and run the same command again: it resumes."
        )
    if cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return InputError(f"{path.parent} cannot be written ({cause.strerror}); choose a writable folder with --store or SAFESTEER_CACHE.")
    return InputError(f"{path} cannot be written ({cause.strerror}); everything finished is kept, so the same command resumes.")


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can sync a folder (POSIX)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, streamed."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found.hexdigest()


def digest(record: Any) -> str:
    """Hex SHA-256 of a record of plain values, enums, arrays and tensors (by their bytes), independent of key order.

    Raises UsageError for anything else: how an object prints says too little, or too much, about what it is.
    """
    text = json.dumps(record, sort_keys=True, ensure_ascii=False, default=_by_content)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _by_content(value: Any) -> Any:
    """What JSON has no form for: an array or tensor as its type, shape and the hash of its bytes."""
    if not (hasattr(value, "dtype") and hasattr(value, "shape")):
        raise UsageError(
            f"a {type(value).__name__} cannot be part of a key; give it as numbers, text, lists, dicts, arrays or tensors instead."
        )
    array = value
    if hasattr(value, "detach"):  # a tensor; numpy has no bfloat16, which double holds exactly
        held = value.detach().cpu()
        array = (held.double() if str(value.dtype) == "torch.bfloat16" else held).numpy()
    if array.dtype.hasobject:
        raise UsageError("an array of Python objects cannot be part of a key; give numbers or text.")
    content = array.tobytes()
    return {"dtype": str(value.dtype), "shape": list(value.shape), "sha256": hashlib.sha256(content).hexdigest()}


def digest_files(root: Path, patterns: tuple[str, ...], *, without: tuple[str, ...] = ()) -> str:
    """Hex digest over the names and bytes of the files below `root` that match; `without` names folders or files at its top."""
    found = {p for pattern in patterns for p in root.rglob(pattern) if p.relative_to(root).parts[0] not in without}
    sums = {str(p.relative_to(root)): sha256_of(p) for p in sorted(found) if p.is_file() and "__pycache__" not in p.parts}
    return digest(sums)


def files_of(folder: Path, recorded: Mapping[str, str]) -> bool:
    """True when every recorded file (name -> sha256) is there, unchanged."""
    return all((folder / name).is_file() and sha256_of(folder / name) == value for name, value in recorded.items())


def safe_name(name: str) -> str:
    """A file name of letters, digits, dots, hyphens, underscores, commas and equal signs; "/" becomes "--", ":" becomes "-".

    Where anything else is lost (other alphabets, great length), eight digits of the name's hash keep different names different.
    """
    plain = name.replace("/", "--").replace(":", "-")
    clean = re.sub(r"[^A-Za-z0-9._,=-]+", "-", plain).strip(".-")[:LONGEST]
    if clean and clean == plain:
        return clean
    return f"{clean or 'unnamed'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
