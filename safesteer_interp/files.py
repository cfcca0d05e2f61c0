"""Files: one way to write a file whole or not at all, one hash, one JSON, one "tensors + record", and sentences for disks that say no."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesteer_interp.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 1 << 22
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
"""This machine, in the names of temporary files: folders may be shared."""
LONGEST = 120
"""Characters of a file name that are kept."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all: a temporary file in the same folder, flushed to the disk, renamed, the folder flushed too.

    Folders above are made, and what a killed process left of the same file goes. Raises InputError when the disk is full or the folder
    cannot be written.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        start = f".{path.name[:80]}."
        _clear(path.parent, start)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{start}{_HOST}-{os.getpid()}.", suffix=".tmp")
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


def _clear(folder: Path, start: str) -> None:
    """Removes temporary files of a name whose process, on this machine, is no more; those of other machines may be at work."""
    left = re.compile(re.escape(f"{start}{_HOST}-") + r"(\d+)\..*\.tmp")
    for entry in os.listdir(folder):  # noqa: PTH208 (names alone: a folder of traces has thousands)
        found = left.fullmatch(entry) if entry.startswith(start) else None
        if found is not None and not _lives(int(found[1])):
            (folder / entry).unlink(missing_ok=True)


def _lives(process: int) -> bool:
    if os.name != "posix":  # signal 0 is none elsewhere
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or not to be known here
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all. Half a surrogate pair, which UTF-8 has not, is written as its escape."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, record: Any, *, indent: int = 2, sort_keys: bool = False) -> None:
    """Writes indented JSON, whole or not at all; keys keep the order given unless sorted."""
    write_bytes(path, json_bytes(record, indent=indent, sort_keys=sort_keys))


def json_bytes(record: Any, *, indent: int = 2, sort_keys: bool = False) -> bytes:
    """Indented UTF-8 JSON with a line feed at its end; half a surrogate pair as JSON's own escape of it.

    Raises ValueError for NaN and infinity, which JSON has not.
    """
    text = json.dumps(record, indent=indent, sort_keys=sort_keys, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def read_json(path: Path) -> Any:
    """Raises InputError, naming the file, when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the analysis again with `safesteer run`.") from None
    except (OSError, ValueError) as cause:
        raise InputError(f"{path} is not readable as JSON ({cause}); run the analysis again with `safesteer run`.") from None


def write_tensors(path: Path | str, tensors: Mapping[str, np.ndarray], record: Any, *, kind: str) -> Path:
    """Writes fitted numbers and what is known about them as one safetensors file, whole or not at all; returns its path.

    `record` (what JSON can hold) lies in the file's metadata, with `kind` (e.g. "safesteer-probe/1") and a hash over everything, so that
    a changed file is noticed. ".safetensors" is added to a name that lacks it. Raises InputError as `write_bytes`.
    """
    import numpy as np
    from safetensors.numpy import save

    target, text = tensor_path(path), json.dumps(record, sort_keys=True)
    whole = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    write_bytes(target, save(whole, {"format": kind, "record": text, "sha256": _digest_tensors(kind, text, whole)}))
    return target


def read_tensors(path: Path | str, kind: str) -> tuple[dict[str, np.ndarray], Any]:
    """The tensors and the record that `write_tensors` wrote as `kind`, or an earlier version of this suite.

    Raises InputError, naming the file, when it is missing, damaged, changed, or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    source = tensor_path(path)
    try:
        with safe_open(str(source), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except FileNotFoundError:
        raise InputError(f"{source} does not exist; give a file that this suite saved.") from None
    except (OSError, SafetensorError) as cause:
        raise InputError(f"{source} cannot be read as safetensors ({cause}); it is damaged or no such file: save it again.") from None
    if "record" not in metadata:
        metadata = _earlier_metadata(source, metadata)
    if metadata.get("format") != kind:
        found = metadata.get("format", "unknown")
        raise InputError(f'{source} holds "{found}", expected "{kind}"; it was not written by this suite, or for something else.')
    if metadata.get("sha256") not in (None, _digest_tensors(kind, metadata["record"], tensors)):
        raise InputError(f"{source} does not match the hash it was saved with: it was changed or damaged since; fit and save it again.")
    return tensors, json.loads(metadata["record"])


def tensor_path(path: Path | str) -> Path:
    """The safetensors file that a name means: with its suffix added, or in place of ".json" (where probes once kept their record)."""
    return Path(f"{str(path).removesuffix('.safetensors').removesuffix('.json')}.safetensors")


def with_ending(path: Path | str, ending: str) -> Path:
    """The file that a user's name means, with this ending: added, or in place of ".json" or ".gguf"; other dots are part of the name.

    Raises UsageError where the path ends in a folder.
    """
    named = Path(path)
    if named.name in ("", ".."):
        raise UsageError(f'"{path}" names no file; give a name, to which {ending} is added.')
    return named.with_name(f"{named.name.removesuffix('.json').removesuffix('.gguf') or named.name}{ending}")


def _digest_tensors(kind: str, record: str, tensors: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256(f"{kind}\0{record}".encode())
    for name in sorted(tensors):
        found.update(f"\0{name}\0{tensors[name].dtype}\0{tensors[name].shape}\0".encode())
        found.update(tensors[name].tobytes())
    return found.hexdigest()


def _earlier_metadata(source: Path, metadata: dict[str, str]) -> dict[str, str]:
    """Metadata as earlier versions kept it: vectors under a key of their own, probes in a JSON file beside the numbers."""
    for key in ("directions", "alignment"):
        if key in metadata and "format" in metadata:
            return {"format": metadata["format"], "record": metadata[key]}
    try:
        record = json.loads(source.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict) or not str(record.get("format")).startswith("safesteer-"):
        return {}
    if record.pop("sha256", None) != sha256_of(source):
        raise InputError(f"{source} does not match the hash in {source.with_suffix('.json').name}; fit and save it again.")
    return {"format": record.pop("format"), "record": json.dumps(record)}


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


_known: dict[tuple[int, int, int, int], str] = {}


def file_digest(path: Path) -> str:
    """`sha256_of`, remembered in this process for the file, its size and modification time; a file that was renamed is still known."""
    stat = path.stat()
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _known:
        _known[key] = sha256_of(path)
    return _known[key]


def digest(record: Any) -> str:
    """Hex SHA-256 of what JSON can hold, independent of the order of keys.

    Raises UsageError for anything else: how an object prints says too little, or too much, about what it is. For arrays, tensors and
    objects there is `content_digest`, which makes such a record of them.
    """
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=_refuse).encode()).hexdigest()


def _refuse(value: Any) -> Any:
    kind = type(value).__name__
    raise UsageError(f"{kind} objects cannot be part of a key as they are; give numbers, text, lists or dicts, or the `content_digest`.")


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
