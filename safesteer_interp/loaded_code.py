"""What code is loaded, as a record: for classes typed in a notebook, which have no file, and for files edited after their import."""

from __future__ import annotations

import dis
import inspect
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from safesteer_interp.code_digest import PACKAGE, has_source, source_digest

Record = Callable[[Any, str], Any]
"""Turns a value, and what to call it in a sentence, into JSON."""
_ADDED = (
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__qualname__", "__firstlineno__", "__static_attributes__",
    "__parameters__", "__hash__", "__dataclass_params__", "__dataclass_fields__", "__match_args__", "__abstractmethods__", "_abc_impl",
    "__annotate_func__", "__annotations_cache__",
)  # fmt: skip
"""What Python, ABC and dataclass put into a class besides what its body says."""


def closes_over_values(thing: Any) -> bool:
    """Whether a function's source does not say all: it lies within another one, or is a lambda."""
    return inspect.isfunction(thing) and "<" in thing.__qualname__


def loaded_record(thing: Any, record: Record, seen: frozenset[int] = frozenset()) -> Any:
    """Byte code, constants, defaults, closed-over values and the globals named, of a function or of all in a class and its bases."""
    if id(thing) in seen:
        return "again"
    seen |= {id(thing)}
    if inspect.isclass(thing):
        bases = [_member(base, thing.__name__, record, seen) for base in thing.__bases__]
        return [thing.__name__, bases, {name: _member(value, f"{thing.__name__}.{name}", record, seen) for name, value in _members(thing)}]
    values = {name: thing.__globals__[name] for name in sorted(_globals(thing.__code__)) if name in thing.__globals__}
    values |= {f"closed-over {n}": c.cell_contents for n, c in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)}
    values |= {"defaults": thing.__defaults__, "keyword defaults": thing.__kwdefaults__}
    used = {name: _member(value, f"`{name}`, which {thing.__qualname__} uses,", record, seen) for name, value in values.items()}
    return [_signature(thing.__code__, thing.__doc__), used]


def _member(value: Any, what: str, record: Record, seen: frozenset[int]) -> Any:
    value = getattr(value, "__func__", value)
    if isinstance(value, property):
        return [_member(part, what, record, seen) for part in (value.fget, value.fset) if part is not None]
    if isinstance(value, ModuleType):
        return value.__name__
    if inspect.isclass(value) or inspect.isfunction(value):
        if _is_foreign(value):
            return f"{value.__module__}.{value.__qualname__}"
        written = has_source(value) and is_current(value) and not closes_over_values(value)
        return source_digest(value) if written else loaded_record(value, record, seen)
    if inspect.isroutine(value):
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    return record(value, what)


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """What a class body says: methods, constants, and the names and types of fields."""
    for name, value in vars(cls).items():
        generated = (
            inspect.isfunction(value) and "__create_fn__" in inspect.unwrap(value).__code__.co_qualname
        )  # by dataclass, from the fields
        if name not in _ADDED and not generated and not inspect.isgetsetdescriptor(value) and not inspect.ismemberdescriptor(value):
            yield name, value
    for name, kind in inspect.get_annotations(cls).items():
        yield f"{name}: {kind}", None


def _is_foreign(thing: Any) -> bool:
    """Whether a class or function is Python's or an installed package's: those have versions."""
    module = sys.modules.get(thing.__module__)
    if thing.__module__.partition(".")[0] in (PACKAGE, "__main__") or module is None:
        return False
    path = getattr(module, "__file__", None)
    if path is None:
        return thing.__module__ in sys.builtin_module_names and getattr(module, thing.__qualname__, None) is thing
    return Path(path).is_relative_to(Path(json.__file__).parents[1]) or not {"site-packages", "dist-packages"}.isdisjoint(Path(path).parts)


def _globals(code: CodeType) -> set[str]:
    """Global names that code and the functions in it read."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_globals(c) for c in code.co_consts if isinstance(c, CodeType)))


def _signature(code: CodeType, doc: str | None = None) -> list[Any]:
    """What code does, without where it stands: instructions, names and constants, its docstring left out."""
    constants = [_constant(constant) for constant in code.co_consts if doc is None or constant != doc]
    return [code.co_code.hex(), list(code.co_names), list(code.co_varnames), list(code.co_freevars), constants]


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _signature(value)
    if isinstance(value, frozenset):  # the order of a set differs from process to process
        return sorted(map(repr, value))
    return [type(value).__name__, repr(value)]


def is_current(thing: Any) -> bool:
    """Whether the functions of a class that are loaded are those that its file holds now."""
    if thing.__module__.partition(".")[0] == PACKAGE:
        return True
    try:
        path = Path(str(getattr(sys.modules.get(thing.__module__), "__file__", "")))
        whole = compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError):
        return False
    written = {code.co_qualname: _signature(code) for code in _codes(whole)}
    members = [thing] if inspect.isfunction(thing) else [getattr(value, "__func__", value) for _, value in _members(thing)]
    own = [inspect.unwrap(function).__code__ for function in members if inspect.isfunction(function)]
    return all(written.get(code.co_qualname) == _signature(code) for code in own)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _codes(part)
