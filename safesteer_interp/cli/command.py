"""What the commands share: parsing by tyro, JSON and tables on stdout, sentences on stderr."""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from tyro.conf import Positional

__all__ = [
    "Positional",
    "emit_json",
    "emit_json_line",
    "emit_table",
    "harmless_on_a_terminal",
    "parse",
    "parse_union",
    "plain",
    "say",
]

Parsed = TypeVar("Parsed")


def parse(command: type[Parsed], name: str, arguments: Sequence[str]) -> Parsed:
    """The command's dataclass filled in from its arguments; prints help or a usage error and exits (0 or 2) like any CLI."""
    import tyro

    return tyro.cli(command, prog=f"safesteer {name}", args=list(arguments), config=(tyro.conf.FlagCreatePairsOff,))


def parse_union(commands: Any, name: str, arguments: Sequence[str]) -> Any:
    """The same for a union of subcommands."""
    import tyro

    return tyro.cli(commands, prog=f"safesteer {name}", args=list(arguments), config=(tyro.conf.FlagCreatePairsOff,))


def emit_json(data: Any) -> None:
    """Data as JSON on stdout; NaN and infinities become null, paths and enums text."""
    json.dump(plain(data), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def emit_json_line(data: Any) -> None:
    """One line of JSON on stdout, sent at once: what is written line by line can be read line by line."""
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False)
    # a line separator inside a text would end the line for some readers
    sys.stdout.write(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085") + "\n")
    sys.stdout.flush()


def harmless_on_a_terminal(text: str) -> str:
    """Text of a model's with control characters, escape sequences and marks that reorder lines written out: it can colour nothing, hide
    nothing and ring no bell. Line feeds and tabs stay."""
    return "".join(
        c if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs", "Co") and c not in _REORDERS) else _escape(c) for c in text
    )


_REORDERS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def emit_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """A table on stdout, cut to the terminal's width; plain text when piped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would exit with 1, which means "a claim moved" here

    console = PipedConsole(width=None if sys.stdout.isatty() else 200, emoji=False, markup=False)
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console.print(table)


def say(sentence: str) -> None:
    """One sentence on stderr."""
    print(sentence, file=sys.stderr, flush=True)


def plain(value: Any) -> Any:
    """JSON form of nested dataclasses, mappings, sequences, enums, paths and numpy scalars."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
