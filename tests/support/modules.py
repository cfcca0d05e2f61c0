"""Python files written and imported by a test, as a user's own would be."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

Write = Callable[[str, str], ModuleType]


@contextmanager
def importing_from(folder: Path) -> Iterator[Write]:
    """`write(name, source)` writes a file into the folder and imports it, anew each time."""
    sys.path.insert(0, str(folder))
    written: set[str] = set()

    def write(name: str, source: str) -> ModuleType:
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()
        written.add(name)
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    dont_write, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a file rewritten within a second must not come from bytecode
    try:
        yield write
    finally:
        sys.dont_write_bytecode = dont_write
        sys.path.remove(str(folder))
        for name in written:
            sys.modules.pop(name, None)


def script(path: Path) -> ModuleType:
    """A script that lies in no package (of `benchmarks/`), as a module; what lies beside it can be imported by it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
