"""One hash of the code that a class, function or module runs: as written, without comments, docstrings, error sentences and layout.

Results are kept under keys, and a key that does not hold the code gives yesterday's answers to today's method. Starting at one object,
the names its source mentions are followed: through its own file, the files beside it and this package, definition by definition, so
that an edit elsewhere in a file leaves the hash alone. What a function is handed has a key of its own (a model's fingerprint, a request's
key), so annotations of arguments are not followed; annotations of a class's fields are, since fields are part of the object.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from safesteer_interp.errors import UsageError

PACKAGE = __name__.partition(".")[0]
TALK = (f"{PACKAGE}.errors", f"{PACKAGE}.progress")
"""Modules that only say something to people."""
Unit = tuple[str, str]
"""A module's name and a name defined at its top level; "" is the whole module."""


def source_digest(*things: object) -> str:
    """Hex SHA-256 of the source of classes, functions, modules (or objects, for their class) and of what that source uses.

    Independent of the folder it lies in and of the Python version. Constructors of a class (classmethods that nothing else in it
    calls) are left out: what they made is in the object's fields. Raises UsageError for a thing without a source file.
    """
    closure = _Closure()
    for thing in things:
        closure.start(thing)
    return hashlib.sha256("\0".join(sorted(closure.written.values())).encode()).hexdigest()


def has_source(thing: object) -> bool:
    """Whether the source of a class, function or module lies in a file and defines it there."""
    module, symbol = _unit_of(thing)
    source = _source(module)
    return source is not None and (not symbol or symbol in source.definitions)


@dataclass(frozen=True)
class _Source:
    """One parsed file: what each top-level name is defined by, and what each imported name stands for."""

    statements: tuple[ast.stmt, ...]
    definitions: dict[str, tuple[ast.stmt, ...]]
    imports: dict[str, Unit]
    """Name here -> (module, name there), "" for the module itself."""


@dataclass
class _Closure:
    """Everything reached so far."""

    written: dict[Unit, str] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    packages: set[str] = field(default_factory=lambda: {PACKAGE})

    def start(self, thing: object) -> None:
        """Add a thing and all it uses; other files count as the user's own when they lie beside the thing's."""
        module, symbol = _unit_of(thing)
        path = _path(module)
        if path is None or not has_source(thing):
            raise UsageError(f"the code of {symbol or module} lies in no file, so what it makes cannot be told from another version's.")
        self.packages.add(module.partition(".")[0])
        self.folders.add(path.parent)
        self._follow([(module, symbol)], root=(module, symbol))

    def _follow(self, units: list[Unit], root: Unit) -> None:
        while units:
            module, symbol = unit = units.pop()
            if unit in self.written or not self._is_own(module):
                continue
            source = _source(module)
            if source is None:
                continue
            if symbol and symbol not in source.definitions:
                self.written[unit] = ""
                units += [_elsewhere(module, symbol, source)]
                continue
            nodes = list(source.definitions[symbol] if symbol else source.statements)
            if unit == root:
                nodes = [_without_constructors(node) if isinstance(node, ast.ClassDef) else node for node in nodes]
            self.written[unit] = f"{symbol}: " + "".join(map(canonical, nodes))
            units += {found for node in nodes for found in _mentions(node, module, source)}

    def _is_own(self, module: str) -> bool:
        if module in TALK:
            return False
        if module.partition(".")[0] in self.packages:
            return True
        path = _path(module)
        if path is None:
            return False
        within = [path.relative_to(folder) for folder in self.folders if path.is_relative_to(folder)]
        return any({"site-packages", "dist-packages"}.isdisjoint(below.parts) for below in within)


def _unit_of(thing: object) -> Unit:
    """Where a thing is defined. A nested class or function counts as the top-level definition it lies in."""
    if isinstance(thing, ModuleType):
        return thing.__name__, ""
    named = thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing)
    return str(named.__module__), named.__qualname__.partition(".")[0]


def _path(module: str) -> Path | None:
    """The Python file of a module, loaded or not; None for what is built in, compiled or typed at a prompt."""
    loaded = sys.modules.get(module)
    found = getattr(loaded, "__file__", None)
    if loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return None
        found = spec.origin if spec is not None else None
    path = Path(found) if found else None
    return path.resolve() if path is not None and path.suffix == ".py" and path.is_file() else None


def _source(module: str) -> _Source | None:
    path = _path(module)
    if path is None:
        return None
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        return _parsed(path.read_bytes(), package)
    except (OSError, SyntaxError):
        return None


@lru_cache(maxsize=512)
def _parsed(content: bytes, package: str) -> _Source:
    tree = ast.parse(content)
    definitions: dict[str, tuple[ast.stmt, ...]] = {}
    imports: dict[str, Unit] = {}
    for statement in tree.body:
        for name in _bound(statement):
            definitions[name] = (*definitions.get(name, ()), statement)
        if isinstance(statement, ast.Import | ast.ImportFrom | ast.If | ast.Try):
            imports |= dict(_imported(statement, package))
    return _Source(tuple(tree.body), definitions, imports)


def _bound(statement: ast.stmt) -> set[str]:
    """Names a top-level statement defines; `table[key] = value` belongs to `table`."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Expr):
        return set()
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return {node.id for target in targets for node in _roots(target)}
    bodies = [part for name in ("body", "orelse", "finalbody") for part in getattr(statement, name, [])]
    bodies += [part for handler in getattr(statement, "handlers", []) for part in handler.body]
    targets = [statement.target] if isinstance(statement, ast.For) else []
    return {name for part in bodies for name in _bound(part)} | {node.id for target in targets for node in _roots(target)}


def _roots(target: ast.expr) -> Iterator[ast.Name]:
    if isinstance(target, ast.Name):
        yield target
    elif isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        yield from _roots(target.value)
    elif isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _roots(element)


def _imported(node: ast.AST, package: str) -> Iterator[tuple[str, Unit]]:
    """What the import statements in a node bind."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            for alias in part.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, (alias.name, "")) if alias.asname else (top, (top, ""))
        elif isinstance(part, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - part.level + 1] if part.level else []
            module = ".".join([*above, *([part.module] if part.module else [])])
            for alias in part.names:
                yield alias.asname or alias.name, (module, "" if alias.name == "*" else alias.name)


def _mentions(node: ast.AST, module: str, source: _Source) -> Iterator[Unit]:
    """The definitions that a node's names stand for, its own imports included."""
    package = module if (path := _path(module)) is not None and path.name == "__init__.py" else module.rpartition(".")[0]
    inner = dict(_imported(node, package))
    for chain in _chains(node):
        name, *attributes = chain
        if name in inner:
            yield _attribute(inner[name], attributes)
        elif name in source.definitions:
            yield module, name
        elif name in source.imports:
            yield _attribute(source.imports[name], attributes)


def _chains(node: ast.AST, *, in_class: bool = False) -> Iterator[tuple[str, ...]]:
    """Every name a node mentions with the attributes that follow it ("a.b.c" as a tuple), annotations of functions left out."""
    if isinstance(node, ast.Attribute):
        parts, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            parts, inner = [inner.attr, *parts], inner.value
        if isinstance(inner, ast.Name):
            yield (inner.id, *parts)
            return
    if isinstance(node, ast.Name):
        yield (node.id,)
    for name, value in ast.iter_fields(node):
        if (isinstance(node, ast.arg) and name == "annotation") or name == "returns":
            continue
        if isinstance(node, ast.AnnAssign) and name == "annotation" and not in_class:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                inside = isinstance(node, ast.ClassDef) or (in_class and isinstance(node, ast.AnnAssign))
                yield from _chains(child, in_class=inside)


def _attribute(target: Unit, attributes: list[str]) -> Unit:
    """The definition behind `target.attributes`, where the target may be a module or one of its submodules."""
    module, symbol = target
    rest = [*([symbol] if symbol else []), *attributes]
    while rest and _path(module) is not None and (source := _source(module)) is not None and rest[0] not in source.definitions:
        if rest[0] in source.imports or _path(f"{module}.{rest[0]}") is None:
            break
        module, rest = f"{module}.{rest[0]}", rest[1:]
    return module, rest[0] if rest else ""


def _elsewhere(module: str, symbol: str, source: _Source) -> Unit:
    """Where a name that a module gives but does not define comes from: an import, or `__getattr__` of a lazy package."""
    if symbol in source.imports:
        return _attribute(source.imports[symbol], [])
    try:
        value = getattr(import_module(module), symbol)
    except (ImportError, AttributeError):
        return module, ""
    unit = _unit_of(value)
    return unit if unit[0] != module and unit[0] in sys.modules else (module, "")


def _without_constructors(node: ast.ClassDef) -> ast.ClassDef:
    """The class without classmethods that its other methods do not name."""

    def is_constructor(part: ast.stmt) -> bool:
        marks = part.decorator_list if isinstance(part, ast.FunctionDef) else []
        return any(isinstance(mark, ast.Name) and mark.id == "classmethod" for mark in marks)

    rest = [part for part in node.body if not is_constructor(part)]
    called = {each.attr for part in rest for each in ast.walk(part) if isinstance(each, ast.Attribute)}
    body = [part for part in node.body if part in rest or (isinstance(part, ast.FunctionDef) and part.name in called)]
    return ast.ClassDef(node.name, node.bases, node.keywords, body, node.decorator_list)


def canonical(node: object) -> str:
    """A node, or a list of statements, as text that changes when the code does.

    Layout, comments, docstrings, annotations of functions, error sentences and Python's version change nothing.
    """
    if isinstance(node, list):
        return "[" + ",".join(canonical(part) for part in _without_strings(node)) + "]"
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!r}"
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return f"Raise({canonical(node.exc.func)})"  # what the sentence says changes no result
    if not isinstance(node, ast.AST):
        return repr(node)
    skipped = ("ctx", "type_comment", "returns", *(("annotation",) if isinstance(node, ast.arg) else ()))
    found = [(name, value) for name, value in ast.iter_fields(node) if name not in skipped and value is not None and value != []]
    return f"{type(node).__name__}({','.join(f'{name}={canonical(value)}' for name, value in found)})"


def _without_strings(nodes: Iterable[object]) -> list[object]:
    """Statements that are not mere strings."""
    return [node for node in nodes if not _is_string(node)]


def _is_string(node: object) -> bool:
    """Whether a statement is a mere string: the docstring of a module, class or function, or the text under a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
