"""Parameters of an analysis or of a method: a dataclass whose fields can be set from text and whose field strings are the help.

A field may be of any type pydantic reads from text (int, float, bool, str, an enum, a Literal), or one of these or None, or a tuple of
them; "0-29,31" is a tuple of ints, and "none" or "all" is None.
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
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.sites import parse_ranges

NOTHING = ("none", "all", "")
"""Words for None."""


def with_overrides(params: type, settings: Mapping[str, Any], *, owner: str = "") -> Any:
    """An instance of the class with some fields set; text is read by the field's type.

    Raises UsageError, naming the owner and the field, for an unknown field, a value of the wrong type, or one that the class refuses.
    """
    hints = typing.get_type_hints(params)
    known = [f.name for f in dataclasses.fields(params) if f.init]
    for name in settings:
        if name not in known:
            raise UsageError(f'"{owner}" has no parameter "{name}".{did_you_mean(name, known)}')
    return params(**{name: parse(value, hints[name], field=f"{owner}.{name}") for name, value in settings.items()})


def parse(value: Any, hint: Any, *, field: str) -> Any:
    """A value of the hinted type, from text where it is text. Raises UsageError, naming the field and the expected type."""
    try:
        return _adapter(hint).validate_python(_spread(value, hint, field) if isinstance(value, str) else value)
    except ValidationError:
        raise UsageError(f'{field} = "{value}" is not {describe(hint)}; give it as {describe(hint)}.') from None


@cache
def _adapter(hint: Any) -> Any:
    """A `pydantic.TypeAdapter`."""
    return TypeAdapter(hint)


def _spread(text: str, hint: Any, field: str) -> Any:
    """Text as pydantic wants it: None for its words, and the parts of a list."""
    options = _options(hint)
    if type(None) in options and text.strip().lower() in NOTHING:
        return None
    lists = [get_args(option)[0] for option in options if get_origin(option) is tuple]
    if not lists:
        return text.strip()
    inside = text.strip().strip("()[]")
    try:
        return parse_ranges(inside) if lists[0] is int else [part.strip() for part in inside.split(",") if part.strip()]
    except UsageError as cause:
        raise UsageError(f"{field}: {cause}") from None


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union; else the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def describe(hint: Any) -> str:
    """The type in words, for help and messages: "a whole number", "whole numbers such as 0-9,12", ..."""
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
    return any(get_origin(option) is tuple for option in _options(typing.get_type_hints(params)[name]))


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
    found: dict[str, Any] = _adapter(type(p)).dump_python(p, mode="json")
    return found


def from_record(params: type, record: Mapping[str, Any]) -> Any:
    """The instance that `as_record` wrote. Raises UsageError for a field the class no longer has, or a value it no longer takes."""
    if gone := sorted(set(record) - {f.name for f in dataclasses.fields(params)}):
        raise UsageError(f"stored parameters {gone} no longer exist in {params.__module__}; run the analysis again.")
    try:
        return _adapter(params).validate_python(dict(record))
    except ValidationError as cause:
        fields = sorted({str(error["loc"][0]) for error in cause.errors() if error["loc"]})
        raise UsageError(f"stored parameters {fields} no longer fit {params.__module__}; run the analysis again.") from None
