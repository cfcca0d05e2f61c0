"""Names of data sets with options, as every command takes them: "figstep:render", "mm_safetybench:attacks=TEXT+CB,tiny".

An option is a keyword argument of the data set's loader; without a value it is switched on, several values are joined by "+".
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, get_args, get_origin

from safesteer_interp.errors import UsageError, did_you_mean

NOT_OPTIONS = {"root", "path", "bad"}


def split_name(text: str) -> tuple[str, dict[str, str | None]]:
    """ "figstep:render,tiny" as ("figstep", {"render": None, "tiny": None}); values stay text. Raises UsageError for an empty option."""
    name, colon, rest = text.partition(":")
    options: dict[str, str | None] = {}
    for word in rest.split(",") if colon else []:
        option, equals, value = word.strip().partition("=")
        if not option or (equals and not value):
            raise UsageError(f'data set "{text}": write options as NAME:option or NAME:option=value, joined by commas.')
        options[option] = value if equals else None
    return name, options


def known_options(load: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options a loader takes."""
    return {n: p for n, p in inspect.signature(load, eval_str=True).parameters.items() if n not in NOT_OPTIONS}


def check_options(name: str, load: Callable[..., Any], options: dict[str, Any]) -> None:
    """Raises UsageError for an option the loader does not take."""
    known = known_options(load)
    for option in options:
        if option not in known:
            raise UsageError(f'data set "{name}" has no option "{option}".' + did_you_mean(option, known))


def typed(name: str, load: Callable[..., Any], written: dict[str, str | None]) -> dict[str, Any]:
    """Options written as text, in the types the loader's signature names. Raises UsageError, naming the option, for what does not fit."""
    check_options(name, load, written)
    known = known_options(load)
    return {option: _typed(name, option, value, known[option].annotation) for option, value in written.items()}


def _typed(name: str, option: str, value: str | None, hint: Any) -> Any:
    what = f'data set "{name}": option "{option}"'
    kinds = _kinds(hint)
    if bool in kinds:
        if value not in (None, "true", "false"):
            raise UsageError(f'{what} is true or false, not "{value}".')
        return value != "false"
    if value is None:
        raise UsageError(f"{what} needs a value: {name}:{option}=...")
    if int in kinds:
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise UsageError(f'{what} must be a whole number, not "{value}".')
        return int(value)
    words = value.split("+") if Sequence in kinds else [value]
    for members in (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, StrEnum)):
        known = [str(member) for member in members]
        for word in words:
            if word not in known:
                raise UsageError(f'{what} has no value "{word}".' + did_you_mean(word, known))
    return tuple(words) if Sequence in kinds else value


def _kinds(hint: Any) -> set[Any]:
    """Every type a hint names: {Sequence, Attack, str, NoneType} for `Sequence[Attack | str] | None`."""
    origin, inner = get_origin(hint), get_args(hint)
    found = {Sequence} if origin is Sequence else set() if inner else {hint}
    return found.union(*map(_kinds, inner))
