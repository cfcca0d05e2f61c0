"""Parameters of an analysis: a frozen dataclass whose fields can be set from text and whose field strings are the help.

A field may be int, float, bool, str, an enum, a Literal, one of these or None, or a tuple of them. "0-29,31" is a tuple of ints.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Union, get_args, get_origin

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.fields import describe, field_help, parse

__all__ = ["as_record", "describe", "field_help", "from_record", "is_list", "parse", "with_overrides"]


def with_overrides(params: type, settings: Mapping[str, Any], *, owner: str = "") -> Any:
    """An instance of the parameter class with some fields set; strings are parsed by the field's type.

    Raises UsageError, naming the field, for an unknown field, a value of the wrong type, or a value that the class itself refuses.
    """
    hints = typing.get_type_hints(params)
    known = [f.name for f in dataclasses.fields(params)]
    typed: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise UsageError(f'analysis "{owner}" has no parameter "{name}".{did_you_mean(name, known)}')
        typed[name] = parse(value, hints[name], field=f"{owner}.{name}") if isinstance(value, str) else value
    return params(**typed)


def is_list(params: type, name: str) -> bool:
    """True when the field is a tuple, so that one run can range over several values of it."""
    hint = typing.get_type_hints(params)[name]
    return any(get_origin(h) is tuple for h in (hint, *get_args(hint)))


def as_record(p: Any) -> dict[str, Any]:
    """JSON form of a parameter instance: tuples as lists, enums as their values."""
    return {f.name: _plain(getattr(p, f.name)) for f in dataclasses.fields(p)}


def from_record(params: type, record: Mapping[str, Any]) -> Any:
    """The instance that `as_record` wrote. Raises UsageError for a field that the class no longer has."""
    hints = typing.get_type_hints(params)
    known = set(hints)
    if gone := sorted(set(record) - known):
        raise UsageError(f"stored parameters {gone} no longer exist in {params.__module__}; run the analysis again.")
    return params(**{name: _typed(value, hints[name]) for name, value in record.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


def _typed(value: Any, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if value is None:
        return None
    if origin in (Union, types.UnionType):
        option = next(a for a in args if a is not type(None) and (isinstance(value, list) == (get_origin(a) is tuple)))
        return _typed(value, option)
    if origin is tuple:
        return tuple(_typed(v, args[0]) for v in value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return value
