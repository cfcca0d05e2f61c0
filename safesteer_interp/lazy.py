"""Public names of a package that are loaded when first used (PEP 562), so that importing the package costs nothing; and old addresses."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
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


class _Moved(ModuleType):
    """Stands at a module's old address: hands on what is asked of it, with a warning."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(old, f"Old address of `{new}`, kept until 0.2.")
        self._new = new

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what tools ask of every module that is loaded
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        warnings.warn(f"{self.__name__} has moved: import from {self._new}.", DeprecationWarning, stacklevel=2)
        return getattr(import_module(self._new), name)


def moved(old: str, new: str) -> None:
    """Keep `from <old> import name` working, although the package now has a public function of the old module's name.

    A file at the old address would take that function's place in the package as soon as it is imported; an entry among the loaded modules
    does not.
    """
    sys.modules.setdefault(old, _Moved(old, new))
