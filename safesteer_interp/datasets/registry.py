"""Names of the data sets, and one function that loads any of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.figstep import load_figstep
from safesteer_interp.datasets.jsonl import load_jsonl
from safesteer_interp.datasets.mm_safetybench import load_mm_safetybench
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.paths import data_root as default_data_root
from safesteer_interp.requests import Request


@dataclass(frozen=True)
class Dataset:
    """One entry of the registry."""

    title: str
    load: Callable[..., list[Request]]
    folder: str | None
    """Folder under the data root, in the layout its authors publish; None when nothing has to be fetched."""


DATASETS: dict[str, Dataset] = {
    "bundled": Dataset("bundled benchmark: 432 pairs, five attack forms", load_bundled, None),
    "figstep": Dataset("FigStep SafeBench and benign twins rendered alike (arXiv 2311.05608)", load_figstep, "figstep"),
    "mm_safetybench": Dataset("MM-SafetyBench (arXiv 2311.17600)", load_mm_safetybench, "mm_safetybench"),
}


def load_requests(name_or_path: str | Path, data_root: Path | str | None = None, **options: Any) -> list[Request]:
    """The requests of a registered data set, or of a file of JSON lines (`*.jsonl`).

    `data_root` holds the folders of public benchmarks; it defaults to `$SAFESTEER_DATA` or `../shared/data`. `options` go to the
    data set's own loader. Raises UsageError for an unknown name or option and InputError when files are missing or malformed.
    """
    if str(name_or_path).endswith(".jsonl"):
        return _call("jsonl", load_jsonl, Path(name_or_path), options)
    entry = DATASETS.get(str(name_or_path))
    if entry is None:
        raise UsageError(
            f'data set "{name_or_path}" is unknown; give a name or the path of a .jsonl file.' + did_you_mean(str(name_or_path), DATASETS)
        )
    if entry.folder is None:
        return _call(str(name_or_path), entry.load, None, options)
    root = Path(data_root) if data_root is not None else default_data_root()
    if root is None or not root.is_dir():
        raise InputError(
            f'data set "{name_or_path}" needs a data root: {f"{root} is not a folder" if root else "none was found"}; '
            f"set SAFESTEER_DATA or pass data_root to the folder that holds {entry.folder}/."
        )
    return _call(str(name_or_path), entry.load, root, options)


def _call(name: str, load: Callable[..., list[Request]], source: Path | None, options: dict[str, Any]) -> list[Request]:
    known = set(inspect.signature(load).parameters) - {"root", "path"}
    for option in options:
        if option not in known:
            raise UsageError(f'data set "{name}" has no option "{option}".' + did_you_mean(option, known))
    return load(**options) if source is None else load(source, **options)
