"""Parameters of an analysis: a frozen dataclass whose fields can be set from text and whose field strings are the help.

A field may be int, float, bool, str, an enum, a Literal, one of these or None, or a tuple of them. "0-29,31" is a tuple of ints.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.sites import parse_ranges

_BOOLS = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}


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


def parse(text: str, hint: Any, *, field: str) -> Any:
    """A value of the hinted type from text. Raises UsageError, naming the field and the expected type."""
    try:
        return _parse(text.strip(), hint)
    except UsageError as cause:
        raise UsageError(f"{field}: {cause}") from None
    except ValueError:
        raise UsageError(f'{field} = "{text}" is not {describe(hint)}; give it as {describe(hint)}.') from None


def _parse(text: str, hint: Any) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if type(None) in args and text.lower() in ("none", "all", ""):
            return None
        for option in (a for a in args if a is not type(None)):
            try:
                return _parse(text, option)
            except ValueError:
                continue
        raise ValueError(text)
    if origin is Literal:
        for option in args:
            if str(option) == text:
                return option
        raise ValueError(text)
    if origin is tuple:
        item = args[0]
        inside = text.strip("()[]")
        parts = parse_ranges(inside) if item is int else [p.strip() for p in inside.split(",") if p.strip()]
        return tuple(_parse(part, item) for part in parts)
    if hint is bool:
        if text.lower() not in _BOOLS:
            raise ValueError(text)
        return _BOOLS[text.lower()]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(text)
    if hint in (int, float, str):
        return hint(text)
    raise ValueError(text)


def describe(hint: Any) -> str:
    """The type in words, for help and messages: "a whole number", "numbers such as 0-9,12", ..."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        words = [describe(a) for a in args if a is not type(None)]
        return " or ".join(words + (['"none"'] if type(None) in args else []))
    if origin is Literal:
        return "one of " + ", ".join(str(a) for a in args)
    if origin is tuple:
        if args[0] is int:
            return "whole numbers such as 0-9,12"
        return f"a comma-separated list, each {describe(args[0])}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(m.value) for m in hint)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


def is_list(params: type, name: str) -> bool:
    """True when the field is a tuple, so that one run can range over several values of it."""
    hint = typing.get_type_hints(params)[name]
    return any(get_origin(h) is tuple for h in (hint, *get_args(hint)))


def field_help(params: type) -> dict[str, str]:
    """Field name -> the string under it, in the order of the fields; "" where there is none. A subclass's string wins."""
    found = {f.name: "" for f in dataclasses.fields(params)}
    for owner in reversed([c for c in params.__mro__ if dataclasses.is_dataclass(c)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        body = next(node for node in tree.body if isinstance(node, ast.ClassDef)).body
        for field, following in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(following, ast.Expr)
                and isinstance(following.value, ast.Constant)
                and isinstance(following.value.value, str)
            ):
                found[field.target.id] = inspect.cleandoc(following.value.value)
    return found


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
