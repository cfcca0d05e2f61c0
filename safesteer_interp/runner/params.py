"""Parameters of an analysis: a dataclass whose fields can be set from text (`fields.py`), and its form in JSON."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, get_origin

from pydantic import ValidationError

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.fields import adapter, options_of, parse


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


def is_list(params: type, name: str) -> bool:
    """True when the field is a tuple, so that one run can range over several values of it."""
    return any(get_origin(option) is tuple for option in options_of(typing.get_type_hints(params)[name]))


def as_record(p: Any) -> dict[str, Any]:
    """JSON form of a parameter instance: tuples as lists, enums as their values."""
    kind: Any = type(p)
    found: dict[str, Any] = adapter(kind).dump_python(p, mode="json")
    return found


def from_record(params: type, record: Mapping[str, Any]) -> Any:
    """The instance that `as_record` wrote. Raises UsageError for a field the class no longer has, or a value it no longer takes."""
    if gone := sorted(set(record) - {f.name for f in dataclasses.fields(params)}):
        raise UsageError(f"stored parameters {gone} no longer exist in {params.__module__}; run the analysis again.")
    try:
        return adapter(params).validate_python(dict(record))
    except ValidationError as cause:
        fields = sorted({str(error["loc"][0]) for error in cause.errors() if error["loc"]})
        raise UsageError(f"stored parameters {fields} no longer fit {params.__module__}; run the analysis again.") from None
