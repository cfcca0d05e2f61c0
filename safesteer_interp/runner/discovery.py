"""Finds the analyses: every `analyses/*.py` that declares `ANALYSIS`. Files whose name starts with "_" are shared code."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.runner.analysis import Analysis

PACKAGE = "analyses"


def analyses_folder() -> Path:
    """`./analyses`, else the folder of that name beside the package. Raises InputError when there is neither."""
    beside = Path(__file__).resolve().parents[2] / PACKAGE
    for candidate in (Path.cwd() / PACKAGE, beside):
        if any(candidate.glob("*.py")):
            return candidate.resolve()
    raise InputError(f'no folder "{PACKAGE}" with .py files here or beside the package; run this from a checkout of the repository.')


def discover(folder: Path | None = None) -> dict[str, Analysis]:
    """Every analysis of a folder by id, in gallery order.

    Raises InputError when there is none, and UsageError, naming the file, for one that declares no ANALYSIS or whose id is not
    its file's name.
    """
    folder = analyses_folder() if folder is None else Path(folder).resolve()
    found = []
    for path in sorted(folder.glob("[!_]*.py")):
        analysis = getattr(_module(path), "ANALYSIS", None)
        if not isinstance(analysis, Analysis):
            raise UsageError(f"{path.name} declares no ANALYSIS = Analysis(...); add one, or start its name with an underscore.")
        if analysis.id != path.stem:
            raise UsageError(f'{path.name} declares the id "{analysis.id}"; the id must be the file\'s name, "{path.stem}".')
        found.append(analysis)
    if not found:
        raise InputError(f"no analysis found in {folder}; expected one .py file per finding.")
    return {a.id: a for a in sorted(found, key=lambda a: (a.order, a.id))}


def choose(ids: Iterable[str], known: dict[str, Analysis]) -> list[Analysis]:
    """The analyses asked for, in gallery order; none asked means all. Raises UsageError, with the nearest names, for an unknown id."""
    asked = set(ids)
    for name in sorted(asked - set(known)):
        raise UsageError(f'no analysis is called "{name}".{did_you_mean(name, known)}')
    return [a for a in known.values() if not asked or a.id in asked]


def _module(path: Path) -> ModuleType:
    """Imports `analyses.<stem>` from this very file, so that `from analyses._shared import ...` works from any working folder."""
    parent = sys.modules.get(PACKAGE)
    if parent is None or str(path.parent) not in list(getattr(parent, "__path__", [])):
        parent = ModuleType(PACKAGE)
        parent.__path__ = [str(path.parent)]
        sys.modules[PACKAGE] = parent
        for name in [n for n in sys.modules if n.startswith(f"{PACKAGE}.")]:
            del sys.modules[name]
    name = f"{PACKAGE}.{path.stem}"
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python source.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as cause:
        del sys.modules[name]
        raise InputError(f"{path.name} is not valid Python (line {cause.lineno}: {cause.msg}); correct it.") from None
    return module
