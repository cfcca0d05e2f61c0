"""The tables of a finding: CSV that survives the round trip, and the folder they lie in."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from safesteer_interp.errors import InputError

MISSING = "nan"
DIGITS = "%.6g"
"""Significant digits kept in tables: below what batching and threads can move, above what a figure or claim can show."""


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
