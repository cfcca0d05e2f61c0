"""Public names of a package that are loaded when first used (PEP 562), so that importing the package costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any


def attach(package: str, homes: Mapping[str, Iterable[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package: `homes` says in which of its modules each public name is defined.

    A name may not be spelled like a module of the package: importing that module would put it in the name's place (a test holds that).
    For type checkers the same names are imported under TYPE_CHECKING.
    """
    home = {name: module for module, names in homes.items() for name in names}
    public = sorted(home)

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{home[name]}"), name)

    return load, lambda: list(public), public
