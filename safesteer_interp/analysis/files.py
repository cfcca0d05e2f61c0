"""Old address of the files of a finding, kept until 0.2: they live in `files`, `runner.folders` and `runner.tables` now."""

from __future__ import annotations

import warnings

from safesteer_interp.files import digest, read_json, safe_name, sha256_of, write_json, write_text
from safesteer_interp.runner.folders import folder_name
from safesteer_interp.runner.tables import read_table, round_trip, table_text

__all__ = [
    "digest",
    "folder_name",
    "read_json",
    "read_table",
    "round_trip",
    "safe_name",
    "sha256_of",
    "table_text",
    "write_json",
    "write_text",
]

warnings.warn(
    "safesteer_interp.analysis.files has moved: import from safesteer_interp.files, runner.folders or runner.tables.",
    DeprecationWarning,
    stacklevel=2,
)
