"""The files of a finding: tables that survive the round trip through CSV, JSON that is byte-stable, and whole-or-nothing writes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from safesteer_interp.errors import InputError

MISSING = "nan"
DIGITS = "%.6g"
"""Significant digits kept in tables: below what batching and threads can move, above what a figure or claim can show."""


def folder_name(model: str, dataset: str = "bundled", *, bundled: tuple[str, ...] = ("bundled", "planted")) -> str:
    """Folder of a model's results: "mini", or "mini@figstep" when the data are not the bundled ones. Safe on every file system."""
    return safe_name(model) if dataset in bundled else f"{safe_name(model)}@{safe_name(Path(dataset).name)}"


def safe_name(name: str) -> str:
    """The name with everything but letters, digits, dots, hyphens, commas and equal signs replaced; "/" becomes "--"."""
    return re.sub(r"[^A-Za-z0-9._,=-]+", "-", name.replace("/", "--")).strip(".-") or "model"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all (temporary file in the same folder, fsync, rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, record: Any) -> None:
    """Writes indented JSON, whole or not at all; keys keep the order given."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises InputError, naming the file, when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the analysis again with `safesteer run`.") from None
    except (OSError, ValueError) as cause:
        raise InputError(f"{path} is not readable as JSON ({cause}); run the analysis again with `safesteer run`.") from None


def table_text(table: pd.DataFrame) -> str:
    """CSV with six significant digits and "nan" for what is missing."""
    return table.to_csv(index=False, na_rep=MISSING, float_format=DIGITS, lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    """A table as `table_text` wrote it. Raises InputError, naming the file, when it is missing or not a table."""
    try:
        return parse_table(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run the analysis again with `safesteer run`.") from None
    except (OSError, ValueError, pd.errors.ParserError) as cause:
        raise InputError(f"{path} is not readable as a table ({cause}); run the analysis again with `safesteer run`.") from None


def parse_table(text: str) -> pd.DataFrame:
    """The table in CSV text; only "nan" is missing, so that names such as "none" stay text."""
    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[MISSING], float_precision="round_trip")


def round_trip(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it will be read back: what claims and figures are computed from."""
    return parse_table(table_text(table))


def table_files(folder: Path, names: list[str] | None = None) -> dict[str, pd.DataFrame]:
    """Tables of a result folder by name. Raises InputError when there is none, or a named one is missing."""
    paths = [folder / f"{n}.csv" for n in names] if names else sorted(folder.glob("*.csv"))
    if not paths:
        raise InputError(f"{folder} holds no table; run the analysis again with `safesteer run`.")
    return {p.stem: read_table(p) for p in paths}


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(record: Any) -> str:
    """Hex digest of a JSON-able record, independent of key order."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()


def digest_files(root: Path, patterns: tuple[str, ...], *, without: tuple[str, ...] = ()) -> str:
    """Hex digest over the names and bytes of the files below `root` that match; `without` names folders or files at its top."""
    found = {p for pattern in patterns for p in root.rglob(pattern) if p.relative_to(root).parts[0] not in without}
    sums = {str(p.relative_to(root)): sha256_of(p) for p in sorted(found) if p.is_file() and "__pycache__" not in p.parts}
    return digest(sums)


def files_of(folder: Path, recorded: Mapping[str, str]) -> bool:
    """True when every recorded file (name -> sha256) is there, unchanged."""
    return all((folder / name).is_file() and sha256_of(folder / name) == value for name, value in recorded.items())
