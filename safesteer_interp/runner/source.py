"""Which code a result rests on: the modules an analysis imports, directly or not, hashed as `code_digest` hashes code.

Methods and judges are followed definition by definition (`code_digest.source_digest`), since their stored answers are dear. A table is
cheap beside them and reaches nearly all of the suite, its data files included, so it is followed file by file.

The imports are read from the source, deferred ones included, so that nothing is run to know them. A name that a package's `__init__`
loads when first used leads to the module its TYPE_CHECKING block names. What only draws, talks or trains mini is left out.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from safesteer_interp import analyses as shipped
from safesteer_interp.code_digest import canonical
from safesteer_interp.files import digest, digest_files, sha256_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT.name
DRAWING = ("plotting", "report")
"""Folders of the package that turn tables into pictures: a change there means drawing again, not measuring again."""
NOT_MEASURING = (*DRAWING, "cli", "mini_training", "errors", "progress", "paths")
ALWAYS = f"{PACKAGE}.runner.measure"
"""What stands between any analysis and its table: context, session, traces, models, data sets, claims."""


def measuring_code(analysis: Path) -> str:
    """Hash of everything a table of the analysis in this file rests on; equal after a change of comments or docstrings alone."""
    start = analysis.resolve()
    found = closure(start)
    data = {folder for path in found if path.is_relative_to(ROOT) for folder in [path.parent / "data"] if folder.is_dir()}
    # What the data sets hold is part of the requests' own keys.
    files = {p for folder in data if folder.parent.name != "datasets" for p in folder.rglob("*") if p.is_file()}
    sums = {_label(path, start): _meaning(path, _stamp(path)) for path in found} | {_label(p, start): sha256_of(p) for p in files}
    return digest(sums)


def drawing_code() -> str:
    """Hash of the source, style sheets and templates that turn tables into pictures."""
    return digest([digest_files(ROOT / part, ("*.py", "*.mplstyle")) for part in DRAWING])


def closure(start: Path) -> set[Path]:
    """The files of the package and of analyses that a file imports, directly or not, itself and what every measurement needs included."""
    always = _module(ALWAYS, start)
    assert always is not None
    found, queue = set[Path](), [start, always]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        queue += (_package_files(path, _stamp(path)) if path.is_relative_to(ROOT) else _followed(path)) - found
    return found


@lru_cache(maxsize=2000)
def _package_files(path: Path, stamp: tuple[int, int]) -> frozenset[Path]:
    """`_followed` of a file of the package, whose modules do not come and go while a process lives: 28 findings follow most of them."""
    return _followed(path)


def _followed(path: Path) -> frozenset[Path]:
    """The files that a file imports, without those that measure nothing."""
    return frozenset(other for name in imports(path) for other in _files(name, path) if not _left_out(other))


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports or names in a string ("module:Class"), as far as they may lie in the package or in analyses."""
    return set(_imports(path, _stamp(path)))


@lru_cache(maxsize=2000)
def _imports(path: Path, stamp: tuple[int, int]) -> frozenset[str]:
    found: set[str] = set()
    for node in _running(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{_absolute(node, path)}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(f"{PACKAGE}."):
            found.add(node.value.partition(":")[0])
    return frozenset(name for name in found if name.partition(".")[0] in (PACKAGE, "analyses"))


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING:`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _running(node)


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module of a from-import; a relative one counts from the file's folder ("analyses" for those outside of the package)."""
    if not node.level:
        return node.module or ""
    home = path.parents[node.level - 1]
    base = [PACKAGE, *home.relative_to(ROOT).parts] if home.is_relative_to(ROOT) and home.name != "_analyses" else ["analyses"]
    return ".".join([*base, *([node.module] if node.module else [])])


def _files(name: str, importer: Path) -> list[Path]:
    """The files behind an imported name: its module, or the module that holds it, and the `__init__` of every package above."""
    parts, found = name.split("."), []
    for depth in range(1, len(parts) + 1):
        path = _module(".".join(parts[:depth]), importer)
        if path is not None:
            found.append(path)
        elif found and depth == len(parts) and found[-1].name == "__init__.py":
            found += _exported(found[-1], parts[-1])
    return found


def _exported(init: Path, name: str) -> list[Path]:
    """Where a package's `__init__` takes a name from that it loads when first used; every module of the package if it does not say."""
    tree = ast.parse(init.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _files(f"{_absolute(node, init)}.{name}", init) if node.module != "__future__" else []
    bound = {t.id for n in ast.walk(tree) if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    bound |= {t.target.id for t in ast.walk(tree) if isinstance(t, ast.AnnAssign) and isinstance(t.target, ast.Name)}
    bound |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return [] if name in bound else sorted(init.parent.glob("*.py"))


def _module(name: str, importer: Path) -> Path | None:
    """File of a dotted name in the package or in analyses; None when there is no such module."""
    first, *rest = name.split(".")
    if first == PACKAGE and rest[:1] == ["analyses"] and len(rest) > 1:
        folders, rest = [shipped.FOLDER], rest[1:]
    elif first == "analyses":
        known = list(getattr(sys.modules.get("analyses"), "__path__", []))
        folders = [importer.parent, *map(Path, known), shipped.FOLDER]
    else:
        folders = [ROOT] if first == PACKAGE else []
    for folder in folders:
        path = folder.joinpath(*rest)
        for candidate in (path / "__init__.py", path.with_suffix(".py") if rest else path / "__init__.py"):
            if candidate.is_file():
                return candidate.resolve()
    return None


def _left_out(path: Path) -> bool:
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0].removesuffix(".py") in NOT_MEASURING


def _label(path: Path, start: Path) -> str:
    """A name of the file that is the same on every machine."""
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT).as_posix().replace("_analyses/", "analyses/")
    return f"analyses/{path.name}" if path.parent in (start.parent, shipped.FOLDER.resolve()) else f"{path.parent.name}/{path.name}"


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


@lru_cache(maxsize=2000)
def _meaning(path: Path, stamp: tuple[int, int]) -> str:
    """Hash of what a file does, in the form that all code is hashed in (`code_digest.canonical`)."""
    return digest(canonical(ast.parse(path.read_bytes()).body))
