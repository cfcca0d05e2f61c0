"""Names of the data sets, and one function that loads any of them. A new data set is one file with an `ENTRY`, and its name in `FILES`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.jsonl import load_jsonl, load_rows
from safesteer_interp.datasets.options import check_options, split_name, typed
from safesteer_interp.datasets.published import from_hub
from safesteer_interp.errors import BadRequestError, InputError, UsageError, did_you_mean
from safesteer_interp.paths import cache_dir
from safesteer_interp.paths import data_root as default_data_root
from safesteer_interp.reading import printable
from safesteer_interp.requests import Request, check_images

FILES = (
    "bundled", "figstep", "mm_safetybench", "planted", "utility", "advbench", "jailbreakv", "llava_bench", "mm_safetybench_pp", "mm_vet",
    "pope", "safesteer_d", "vlguard", "vlsafe", "xstest",
)  # fmt: skip
"""The files of this folder that hold a data set, each under its name."""

DATASETS: dict[str, Dataset] = {name: import_module(f"safesteer_interp.datasets.{name}").ENTRY for name in FILES}

_said: set[str] = set()


def load_requests(
    name_or_path: str | Path, data_root: Path | str | None = None, *, bad: list[BadRequestError] | None = None, **options: Any
) -> list[Request]:
    """The requests of a registered data set, or of a file of JSON lines (`*.jsonl`).

    A name may carry options ("figstep:render,tiny"); `options` are the same as keyword arguments, and go to the data set's own loader.
    `data_root` holds the folders of public benchmarks; it defaults to `$SAFESTEER_DATA` or `../shared/data`. With a list `bad`, rows of
    a file that cannot be used are put there and left out; without one the first of them raises. What a file does not say of its rows
    is derived, and one line on stderr says how.

    Raises UsageError for an unknown name or option and InputError when files are missing or malformed.
    """
    text = str(name_or_path)
    if text.endswith(".jsonl"):
        check_options("jsonl", load_jsonl, options)
        found = load_rows(Path(name_or_path), bad=bad, **options)
        if found.note:
            _say(f"{Path(name_or_path).name}: {found.note}")
        return found.requests
    name, written = split_name(text)
    entry = DATASETS.get(name)
    if entry is None:
        raise UsageError(
            f'data set "{printable(text)}" is unknown; give a name or the path of a .jsonl file.' + did_you_mean(name[:80], DATASETS)
        )
    fetched = bool(entry.hub) and ("hub" in written or bool(options.get("hub")))
    written, options = ({k: v for k, v in each.items() if k != "hub" or not entry.hub} for each in (written, options))
    chosen = typed(name, entry.load, written) | options
    check_options(name, entry.load, chosen)
    if entry.folder is None:
        return entry.load(**chosen)
    root = from_hub(entry.hub, entry.folder) if fetched else Path(data_root) if data_root is not None else default_data_root()
    if root is None or not root.is_dir():
        reason = f"{root} is not a folder" if root else "none was found"
        raise InputError(
            f'data set "{name}" needs a data root, and {reason}; '
            f"give the folder that holds {entry.folder}/ with --data-root (or SAFESTEER_DATA, or data_root= in Python)."
        )
    if not (root / entry.folder).is_dir():
        raise InputError(
            f'data set "{name}": {root} holds no folder {entry.folder}/; fetch it in its published layout, or give the folder '
            "that holds it with --data-root (or SAFESTEER_DATA, or data_root= in Python)."
        )
    return entry.load(root, **chosen)


def grader_of(name: str, data_root: Path | str | None = None) -> Callable[[Request, str], float | None] | None:
    """How answers to a data set's requests are graded where right answers are known (a utility set's); None where they are not, or
    where a model has to grade.

    The grader gives None for a request without a known answer. Raises as `load_requests` does.
    """
    entry = DATASETS.get(split_name(str(name))[0])
    if entry is None or entry.references is None or entry.grade is None:
        return None
    known, grade = _references(name, data_root), entry.grade
    return lambda request, answer: grade(answer, known[request.id]) if request.id in known else None


def references_of(name: str, data_root: Path | str | None = None) -> dict[str, str]:
    """Request id -> the right answer as a text, for judges that grade; empty where there is none."""
    return {key: value for key, value in _references(name, data_root).items() if isinstance(value, str)}


def _references(name: str, data_root: Path | str | None) -> Mapping[str, object]:
    short, written = split_name(str(name))
    entry = DATASETS.get(short)
    if entry is None or entry.references is None:
        return {}
    chosen = typed(short, entry.load, {k: v for k, v in written.items() if k != "hub" or not entry.hub})
    if entry.folder is None:
        return entry.references(**chosen)
    fetched = bool(entry.hub) and "hub" in written
    return entry.references(cache_dir() / "benchmarks" if fetched else Path(data_root or default_data_root() or ""), **chosen)


def load_sound(
    name_or_path: str | Path, data_root: Path | str | None = None, **options: Any
) -> tuple[list[Request], list[BadRequestError]]:
    """The requests that can be used, and one error for each row or image that cannot: what a run of many requests goes on with.

    Raises as `load_requests` does, and the first error when nothing can be used.
    """
    bad: list[BadRequestError] = []
    good, unreadable = check_images(load_requests(name_or_path, data_root, bad=bad, **options))
    bad += unreadable
    if not good and bad:
        raise bad[0]
    return good, bad


def _say(sentence: str) -> None:
    """One line on stderr, once in a process."""
    if sentence not in _said:
        _said.add(sentence)
        print(sentence, file=sys.stderr, flush=True)
