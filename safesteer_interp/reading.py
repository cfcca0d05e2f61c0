"""Text files as their standards define them: UTF-8, lines that end with LF or CRLF alone, JSON without extensions.

`str.splitlines` also cuts at U+2028, U+0085, VT and FF, which may stand inside a JSON text, and `json.loads` lets NaN, repeated keys and
half a surrogate pair through. Here every such thing is kept, or refused in a sentence that names file, line and field.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safesteer_interp.errors import InputError

_LONGEST_NUMBER = 400
"""Digits of a JSON number; longer ones are no number that anything here could use, and Python refuses them past 4300."""


class Odd:
    """Stands for a JSON value that the standard has not, or that is out of range; prints as what stood in the file."""

    def __init__(self, written: str) -> None:
        self.written = written if len(written) <= 30 else f"{written[:12]}… ({len(written)} characters)"

    def __repr__(self) -> str:
        return self.written


def read_text(path: Path, advice: str = "check the path.") -> str:
    """The text of a UTF-8 file, without its byte order mark; line ends and all other characters as they are.

    Raises InputError when the file is missing (with `advice`), unreadable, in UTF-16, or not UTF-8 (naming the line).
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; {advice}") from None
    except ValueError:  # a NUL inside the name
        raise InputError(f"{str(path)!r} is no path; {advice}") from None
    except OSError as cause:
        raise InputError(f"{path} cannot be read ({cause.strerror}); {advice}") from None
    return decode(data, str(path))


def decode(data: bytes, where: str) -> str:
    """UTF-8 bytes as text, without a byte order mark. Raises InputError, naming `where` and the line, for anything else."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or (len(data) > 3 and b"\0" in (data[:1], data[1:2])):
        raise InputError(f"{where} is in UTF-16; save it as UTF-8.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = data[: cause.start].count(b"\n") + 1
        raise InputError(f"{where}, line {line}: byte 0x{data[cause.start]:02x} is not UTF-8; save the file as UTF-8.") from None


def lines(text: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line) of every line that is not blank. Only LF and CRLF end a line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip(" \t\r"):
            yield number, line.removesuffix("\r")


def parse_json(text: str, where: str) -> Any:
    """A JSON value; numbers that JSON has not, or that are out of range, become an `Odd`, so that the check of their field names it.

    Raises InputError, naming `where`, for what is not JSON, a key that is written twice, or values nested too deep.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=Odd, parse_int=_int, parse_float=_float)
    except json.JSONDecodeError as cause:
        place = f"column {cause.colno}" if cause.lineno == 1 else f"line {cause.lineno}, column {cause.colno}"
        raise InputError(f"{where}: not valid JSON ({cause.msg} at {place}).") from None
    except _RepeatedKeyError as cause:
        raise InputError(f'{where}: field "{printable(str(cause))}" is written twice; keep one of them.') from None
    except RecursionError:
        raise InputError(f"{where}: its values are nested too deep to be read.") from None


def read_json(path: Path, advice: str = "check the path.") -> Any:
    """The JSON value of a file. Raises InputError, naming it, when it is missing, unreadable or not JSON."""
    return parse_json(read_text(path, advice), str(path))


def parse_csv(text: str, where: str) -> tuple[list[str], list[tuple[int, dict[str, str | None]]]]:
    """(columns, [(line its row ends on, row), ...]) of a CSV text with a header; line breaks inside quotes stay as they are.

    A field that a row lacks is None. Raises InputError, naming the line, for a row with more fields than columns, a repeated column, or
    a field that is too long.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        columns = next(reader, [])
        for column in columns:
            if columns.count(column) > 1:
                raise InputError(f'{where}: column "{printable(column)}" is there twice; keep one of them.')
        rows = []
        for row in reader:
            if not row:
                continue
            if len(row) > len(columns):
                raise InputError(
                    f"{where}, line {reader.line_num}: {len(row)} fields, but {len(columns)} columns; put quotes around commas in a text."
                )
            rows.append((reader.line_num, dict(zip(columns, [*row, *[None] * (len(columns) - len(row))], strict=True))))
    except csv.Error as cause:
        raise InputError(f"{where}, line {reader.line_num}: not valid CSV ({cause}).") from None
    return columns, rows


def unsound(text: str) -> str:
    """What keeps a text from being stored, printed and tokenized: 'half a surrogate pair (U+D83D)', 'a NUL character'; else empty."""
    if found := re.search("[\ud800-\udfff]", text):
        return f"half a surrogate pair (U+{ord(found[0]):04X}, an emoji cut in two?)"
    return "a NUL character" if "\0" in text else ""


def printable(text: str) -> str:
    """The text with what cannot be written as UTF-8 spelled out, for use in a sentence."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


class _RepeatedKeyError(ValueError):
    """The key."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(key)
        found[key] = value
    return found


def _int(written: str) -> Any:
    return int(written) if len(written) <= _LONGEST_NUMBER else Odd(written)


def _float(written: str) -> Any:
    value = float(written) if len(written) <= _LONGEST_NUMBER else float("inf")
    return Odd(written) if value in (float("inf"), float("-inf")) else value
