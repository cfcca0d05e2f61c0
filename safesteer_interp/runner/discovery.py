"""Finds the analyses: those that are shipped, and every `*.py` of the user's own folders that declares `ANALYSIS`.

A user's folder (`./analyses`, or one named by `--analyses`) is added to the shipped findings and hides none of them. A file that
cannot be read as an analysis is remembered with one sentence and stops no other. Files whose name starts with "_" are shared code.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType

from safesteer_interp import analyses as shipped
from safesteer_interp.errors import InputError, SafeSteerError, UsageError, did_you_mean
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.results import MEASURE_ERRORS

OWN = "analyses"
"""Name of the user's folder in the working folder, and of the package in which their files are imported."""

_FAILURES: tuple[type[BaseException], ...] = (*MEASURE_ERRORS, SystemExit)
"""What importing a user's file may fail with."""


class Analyses(Mapping[str, Analysis]):
    """Analyses by id, in gallery order; `broken` says of each of the user's files that is none why it is not."""

    def __init__(self, found: Iterable[Analysis], broken: Mapping[Path, SafeSteerError]) -> None:
        self._known = {a.id: a for a in sorted(found, key=lambda a: (a.order, a.id))}
        self.broken = dict(broken)

    def __getitem__(self, name: str) -> Analysis:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def choose(self, ids: Iterable[str] = ()) -> list[Analysis]:
        """The analyses asked for, in gallery order; none asked means all. Raises UsageError, with the nearest names, for an unknown id."""
        asked = set(ids)
        unreadable = {path.stem for path in self.broken}
        for name in sorted(asked - set(self) - unreadable):
            raise UsageError(f'no analysis is called "{name}".{did_you_mean(name, self)}')
        return [a for a in self.values() if not asked or a.id in asked]

    def failing(self, ids: Iterable[str] = ()) -> dict[Path, SafeSteerError]:
        """The user's files among those asked for (none asked: all) that are no analysis, and why."""
        asked = set(ids)
        return {path: why for path, why in self.broken.items() if not asked or path.stem in asked}


def discover(folder: Path | None = None) -> Analyses:
    """The shipped analyses, those of `./analyses` and those of `folder`. Raises InputError when `folder` holds no .py file."""
    if folder is not None and not any(Path(folder).glob("*.py")):
        raise InputError(f"no analysis found in {folder}; expected one .py file per finding.")
    known = {path.stem: _shipped(path.stem) for path in sorted(shipped.FOLDER.glob("[!_]*.py"))}
    broken: dict[Path, SafeSteerError] = {}
    folders = own_folders(folder)
    for path in (path for each in folders for path in sorted(each.glob("[!_]*.py"))):
        twin = known.get(path.stem)
        if twin is not None and twin.source.read_bytes() == path.read_bytes():
            continue  # an unchanged copy of a shipped finding is that finding
        try:
            if twin is not None:
                raise UsageError(
                    f'{path}: an analysis "{path.stem}" exists already ({twin.source}); give the file and its id another name.'
                )
            known[path.stem] = _own(path, folders)
        except SafeSteerError as cause:
            broken[path] = cause
    return Analyses(known.values(), broken)


def own_folders(folder: Path | None) -> list[Path]:
    """The user's folders of analyses that exist: `./analyses` and `folder`, without the shipped one."""
    candidates = [Path.cwd() / OWN, *([Path(folder)] if folder is not None else [])]
    found = dict.fromkeys(path.resolve() for path in candidates if any(path.glob("*.py")))
    return [path for path in found if path != shipped.FOLDER.resolve()]


def is_own(analysis: Analysis) -> bool:
    """True for a user's analysis, False for a shipped one."""
    return analysis.source.resolve().parent != shipped.FOLDER.resolve()


def _shipped(name: str) -> Analysis:
    found: Analysis = import_module(f"{shipped.__name__}.{name}").ANALYSIS
    return found


def _own(path: Path, folders: Sequence[Path]) -> Analysis:
    """The analysis a user's file declares. Raises UsageError or InputError, naming the file, when there is none."""
    source = _declaring(path)
    try:
        analysis = getattr(_module(path, source, folders), "ANALYSIS", None)
    except _FAILURES as cause:
        why = str(cause) if isinstance(cause, SafeSteerError) else f"{type(cause).__name__}: {cause}"
        raise InputError(f"{path}{_line(cause, path)} cannot be imported ({why}); correct it.") from cause
    if not isinstance(analysis, Analysis):
        raise UsageError(f"{path} declares an ANALYSIS that is no runner.Analysis(...); correct it, or start its name with an underscore.")
    if analysis.id != path.stem:
        raise UsageError(f'{path} declares the id "{analysis.id}"; the id must be the file\'s name, "{path.stem}".')
    home = getattr(inspect.unwrap(analysis.table), "__globals__", {}).get("__file__")
    if home is None or Path(home).resolve() != path.resolve():
        raise UsageError(
            f"{path}: `table` is no function of this file, and what is changed here would go unnoticed; "
            "define it here: def table(ctx, p): return theirs(ctx, p)."
        )
    return analysis


def _declaring(path: Path) -> bytes:
    """The file's source, once it parses and is seen to set ANALYSIS: a script that happens to lie there is never run."""
    try:
        source = path.read_bytes()
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as cause:
        line = getattr(cause, "lineno", None) or 1
        raise InputError(f"{path} is not valid Python (line {line}: {getattr(cause, 'msg', cause)}); correct it.") from None
    except OSError as cause:
        raise InputError(f"{path} cannot be read ({cause.strerror}); check its permissions.") from None
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    if not any(isinstance(t, ast.Name) and t.id == "ANALYSIS" for t in targets):
        raise UsageError(f"{path} declares no ANALYSIS = Analysis(...); add one, or start its name with an underscore.")
    return source


_loaded: dict[Path, tuple[str, ModuleType]] = {}
"""The user's files as they were when last imported: hash of the source, module."""


def _module(path: Path, source: bytes, folders: Sequence[Path]) -> ModuleType:
    """Imports `analyses.<stem>` from this very file, anew when its source has changed.

    The package `analyses` holds the user's folders before the shipped one, so that a copied finding's imports (`from ._shared import
    ...`, `from analyses._shared import ...`) find the user's version of a shared file first, and else the shipped one.
    """
    places = [*map(str, folders), str(shipped.FOLDER)]
    package = sys.modules.get(OWN)
    if package is None or list(getattr(package, "__path__", [])) != places:
        for name in [n for n in sys.modules if n.startswith(f"{OWN}.")]:
            del sys.modules[name]
        package = sys.modules[OWN] = ModuleType(OWN)
        package.__path__ = places
        _loaded.clear()
    digest = sha256(source).hexdigest()
    if path in _loaded and _loaded[path][0] == digest:
        return _loaded[path][1]
    name = f"{OWN}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    _loaded[path] = digest, module
    return module


def _line(cause: BaseException, path: Path) -> str:
    """ ", line 7": the last line of this file that led to the error."""
    lines, step = [], cause.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == str(path):
            lines.append(step.tb_lineno)
        step = step.tb_next
    return f", line {lines[-1]}" if lines else ""
