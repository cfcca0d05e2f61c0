"""A user's own class by name, "file.py:Class" or "package.module:Class": a defense or judge that is in no registry."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from safesteer_interp.errors import InputError, UsageError, did_you_mean

_FAILS = (
    ImportError,
    NameError,
    AttributeError,
    TypeError,
    ValueError,
    LookupError,
    OSError,
    ArithmeticError,
    RuntimeError,
    AssertionError,
)
"""What a module's own lines may raise when it is imported."""


def class_named(name: str, base: Any, what: str) -> Any:
    """The class of that name, which must derive from `base`; the name may be left out where a file defines only one.

    Files beside it can be imported by it. Raises InputError, naming the file, when it is missing or cannot be imported, and
    UsageError for a class it does not define.
    """
    place, _, cls = name.rpartition(":") if ":" in name and not name.endswith(".py") else (name, "", "")
    module = _from_file(Path(place).expanduser()) if place.endswith(".py") else _from_package(place)
    own = {n: c for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__}
    if not cls and len(own) == 1:
        return next(iter(own.values()))
    if not cls:
        raise UsageError(f"{place} defines {len(own)} {what}s; name the one that is meant, as {place}:Class.")
    found = vars(module).get(cls)
    if found is None:
        raise UsageError(f'{place} defines no class "{cls}".{did_you_mean(cls, own) if own else ""}')
    if not inspect.isclass(found) or not issubclass(found, base) or inspect.isabstract(found):
        raise UsageError(f"{cls} in {place} is no {what}; derive it from {base.__module__}.{base.__qualname__}.")
    return found


def _from_package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as cause:
        raise InputError(f'no module "{name}" can be imported ({cause}); give a file as path/to/file.py:Class.') from None
    except _FAILS as cause:
        raise InputError(f'the module "{name}" cannot be imported ({type(cause).__name__}: {cause}); correct it.') from cause


def _from_file(path: Path) -> ModuleType:
    """The module in a file, under a name of its own; imported anew when the file has changed."""
    try:
        content = path.read_bytes()
    except OSError as cause:
        raise InputError(f"{path} cannot be read ({cause.strerror}); give an existing Python file, as path/to/file.py:Class.") from None
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode() + content).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python source.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as cause:
        del sys.modules[name]
        raise InputError(f"{path} is not valid Python (line {cause.lineno}: {cause.msg}); correct it.") from None
    except _FAILS as cause:
        del sys.modules[name]
        raise InputError(f"{path} cannot be imported ({type(cause).__name__}: {cause}); correct it.") from cause
    return module
