"""One hash of an object by its content: the code of its class, its fields, tensors by their bytes. What cannot be hashed is refused.

`repr` and `str` are no content: they cut long arrays and name addresses. So nothing here falls back on them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cached_property, lru_cache, partial
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any

from safesteer_interp.code_digest import has_source, source_digest
from safesteer_interp.errors import UsageError
from safesteer_interp.files import digest
from safesteer_interp.loaded_code import closes_over_values, is_current, loaded_record


def content_digest(value: object, what: str = "value") -> str:
    """Hex SHA-256 of plain data, arrays, tensors, dataclasses, functions, and objects with a `fingerprint` method.

    `what` names the value in the sentence of the UsageError that is raised for anything else.
    """
    return digest(record_of(value, what))


def object_digest(thing: object, what: str) -> str:
    """Hex digest of an object's code and of all its attributes, those that are computed from others left out. Raises as above."""
    cls: Any = type(thing)
    names = [f.name for f in fields(cls)] if is_dataclass(cls) else []
    names += [name for name in getattr(thing, "__dict__", {}) if name not in names and not name.startswith("_")]
    own = [name for name in names if not isinstance(inspect.getattr_static(cls, name, None), cached_property)]
    parts = {name: record_of(getattr(thing, name), f"`{name}` of {what}") for name in own}
    return digest({"code": loaded_digest(cls), "fields": parts})


@lru_cache(maxsize=1024)
def loaded_digest(thing: type | FunctionType) -> str:
    """Hex digest of the code of a class or function: of its source where a file holds what is loaded, else of its byte code.

    Looked at once, so that a long-running process keeps the key of what it runs. Raises UsageError when code without a file uses a
    global whose content cannot be hashed.
    """
    if has_source(thing) and is_current(thing):
        return source_digest(thing)
    return digest(loaded_record(thing, record_of))


def record_of(value: Any, what: str) -> Any:
    """The value as JSON that is equal exactly when the content is; raises as `content_digest` does."""
    if isinstance(value, Enum):
        return {type(value).__name__: record_of(value.value, what)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return {"bytes": hashlib.sha256(value).hexdigest()}
    if isinstance(value, PurePath):
        return {"path": value.as_posix()}
    if isinstance(value, Mapping):
        return {"mapping": _sorted([record_of(k, what), record_of(v, f"{what}[{k!r}]")] for k, v in value.items())}
    if isinstance(value, list | tuple):
        return [record_of(part, f"{what}[{i}]") for i, part in enumerate(value)]
    if isinstance(value, set | frozenset):
        return {"set": _sorted(record_of(part, what) for part in value)}
    numbers = _numbers(value)
    if numbers is not None:
        return numbers
    if inspect.isclass(value) or isinstance(value, FunctionType | MethodType | partial):
        return _code(value, what)
    known = getattr(value, "fingerprint", None)  # a method of defenses and judges, an attribute of models
    if callable(known) or isinstance(known, str):
        return {"fingerprint": str(known() if callable(known) else known)}
    if is_dataclass(value):
        return {"object": object_digest(value, what)}
    raise UsageError(
        f"{what} is a {type(value).__module__}.{type(value).__qualname__}, whose content cannot be hashed, so results made "
        "with it could not be told from others; use numbers, text, tensors, dataclasses or functions, or give its class a `fingerprint()`."
    )


def _sorted(records: Any) -> list[Any]:
    return sorted(records, key=lambda record: json.dumps(record, sort_keys=True))


def _numbers(value: Any) -> Any:
    """Record of a tensor, an array or a numpy scalar; None for anything else. torch is not imported for it: without it there is none."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        return {"tensor": [str(value.dtype), list(value.shape), hashlib.sha256(flat.view(torch.uint8).numpy().tobytes()).hexdigest()]}
    if torch is not None and isinstance(value, torch.dtype | torch.device):
        return {"torch": str(value)}
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and not value.dtype.hasobject:
        return {"array": [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]}
    return None


def _code(value: Any, what: str) -> Any:
    if isinstance(value, partial):
        return {"partial": [record_of(part, what) for part in (value.func, value.args, value.keywords)]}
    if isinstance(value, MethodType):
        return {"method": value.__name__, "of": record_of(value.__self__, what)}
    if closes_over_values(value):
        return {"function": loaded_record(value, record_of)}
    return {"code": loaded_digest(value)}
