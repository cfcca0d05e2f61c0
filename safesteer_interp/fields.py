"""Settings from text by the fields of a dataclass: an analysis's parameters, a defense's and a judge's options.

A field may be of any type pydantic reads from text (int, float, bool, str, a path, an enum, a Literal), one of these or None, or a tuple
of them. "0-29,31" is a tuple of ints, and "none" or "all" is None. Fields of other types (a fitted probe, say) are no options. The
strings under the fields are their help.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.sites import parse_ranges

_PLAIN = (int, float, str, bool, Path)
NOTHING = ("none", "all", "")
"""Words for None."""


def settings_of(known: Mapping[str, Any], words: Sequence[str], *, owner: str) -> dict[str, Any]:
    """Options written as "name=value" ("name" alone switches on), in their known types; the last one of a name wins.

    Raises UsageError, with the nearest names, for an unknown option, and for a value of another type.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = (part.strip() for part in word.partition("="))
        name = name.replace("-", "_")
        if name not in known:
            raise UsageError(f'{owner} has no option "{name}".{did_you_mean(name, known) if known else " It has none at all."}')
        if not equals and known[name] is not bool:
            raise UsageError(f'{owner}: option "{name}" needs a value; write {name}=..., {describe(known[name])}.')
        found[name] = parse(value if equals else "true", known[name], field=f"{owner}: {name}")
    return found


def option_types(cls: type) -> dict[str, Any]:
    """Name -> type of the fields that text can set, in order; none for a class that is no dataclass."""
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init and is_plain(hints[f.name])}


def option_help(cls: type) -> list[dict[str, str]]:
    """One row per option of a class: its name, type in words, default and the string under it."""
    known, texts = option_types(cls), field_help(cls) if dataclasses.is_dataclass(cls) else {}
    defaults = {f.name: f.default for f in dataclasses.fields(cls)} if known else {}
    given = {name: "" if defaults[name] is dataclasses.MISSING else str(defaults[name]) for name in known}
    return [{"option": n, "type": describe(hint), "default": given[n], "what": texts.get(n, "")} for n, hint in known.items()]


def is_plain(hint: Any) -> bool:
    """Whether a value of the type can be written as text."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType, tuple):
        return all(is_plain(a) for a in args if a not in (type(None), Ellipsis))
    return origin is Literal or hint in _PLAIN or (isinstance(hint, type) and issubclass(hint, Enum))


def parse(value: Any, hint: Any, *, field: str) -> Any:
    """A value of the hinted type, from text where it is text. Raises UsageError, naming the field and the expected type."""
    try:
        return adapter(hint).validate_python(_spread(value, hint, field) if isinstance(value, str) else value)
    except ValidationError:
        raise UsageError(f'{field} = "{value}" is not {describe(hint)}; give it as {describe(hint)}.') from None


@cache
def adapter(hint: Any) -> Any:
    """A `pydantic.TypeAdapter`, kept."""
    return TypeAdapter(hint)


def _spread(text: str, hint: Any, field: str) -> Any:
    """Text as pydantic wants it: None for its words, and the parts of a list."""
    options = options_of(hint)
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


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types of a union; else the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


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
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(hint, str(hint))


def field_help(params: Any) -> dict[str, str]:
    """Field name -> the string under it, in the order of the fields; "" where there is none. A subclass's string wins."""
    found = {f.name: "" for f in dataclasses.fields(params)}
    owners: list[Any] = [c for c in params.__mro__ if dataclasses.is_dataclass(c)]
    for owner in reversed(owners):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
        except (OSError, TypeError):  # typed at a prompt
            continue
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
