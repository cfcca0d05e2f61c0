"""What loaders of published benchmarks share: where their files lie, pictures that may be missing, splits by pair, files from the hub."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.pairs import assign_splits
from safesteer_interp.datasets.rendering import BlankImage
from safesteer_interp.errors import InputError
from safesteer_interp.paths import cache_dir
from safesteer_interp.reading import Odd, lines, parse_json, printable, read_text, unsound
from safesteer_interp.requests import ImageFile, ImageSource, Request

BLANK = BlankImage("white", 336, 336)
"""Stands beside texts that are asked with a meaningless picture; LLaVA-1.5's input size."""
FETCH = "fetch the benchmark in its published layout, or correct --data-root (SAFESTEER_DATA)."


def first_file(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of some files that is there. Raises InputError naming them all."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{what}: {root} holds none of {', '.join(names)}; {FETCH}")


def first_folder(root: Path, names: Sequence[str]) -> Path:
    """The first of some folders that is there, else the first of the names."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def picture(folder: Path, name: str, where: str) -> ImageFile:
    """A picture below a folder, which may be missing: who reads it says so by name. Raises InputError for a path that leads out."""
    path, shown = folder / name, printable(name[:100])
    try:
        leaves = not name or Path(name).is_absolute() or ".." in Path(name).parts or not path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        raise InputError(f'{where} is "{shown}", which is no path; use a relative path inside {folder}.') from None
    if leaves:
        raise InputError(f'{where} is "{shown}", which leaves the folder {folder}; use a relative path inside it.')
    return ImageFile(path)


def finished(requests: Iterable[Request], what: str, advice: str = "") -> list[Request]:
    """The requests with their splits, by pair within each scenario.

    Raises InputError when there is none, and when not one of their pictures is there (`advice` says what works without); of a set of
    which some are missing each is named where it is read.
    """
    rows = list(requests)
    if not rows:
        raise InputError(f"{what} holds no request that was asked for; loosen its options.")
    files = [r.image for r in rows if isinstance(r.image, ImageFile)]
    if files and not any(image.path.is_file() for image in files):
        raise InputError(f"{what}: none of its {len(files)} pictures is there (the first: {files[0].path}); {advice or FETCH}")
    splits = assign_splits(list(dict.fromkeys((r.pair, r.scenario) for r in rows)))
    return [replace(r, split=splits[r.pair]) for r in rows]


def beside(image: ImageSource | None, blank: bool) -> ImageSource | None:
    """The picture, or the blank one where a text is asked with a meaningless picture."""
    return BLANK if blank and image is None else image


def json_lines(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines. Raises InputError, naming line and field, for one that lacks a field (a text or a number)."""
    return [checked(parse_json(line, f"{path}, line {n}"), fields, f"{path}, line {n}") for n, line in lines(read_text(path, FETCH))]


def checked(row: Any, fields: Sequence[str], where: str) -> dict[str, Any]:
    """A row whose fields are there and sound. Raises InputError naming the field."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where}: expected a JSON object with the fields {', '.join(fields)}.")
    for field in fields:
        value = row.get(field)
        if isinstance(value, Odd) or not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
            known = ", ".join(printable(str(key)[:30]) for key in list(row)[:12])
            raise InputError(f'{where}: field "{field}" is missing, empty or no text; the row has {known or "no field"}.')
        if isinstance(value, str) and (reason := unsound(value)):
            raise InputError(f'{where}: field "{field}" holds {reason}; write the whole character or remove it.')
    return dict(row)


def from_hub(repository: str, folder: str) -> Path:
    """A data root in the user's cache whose `folder` holds a data set of the hub. Raises InputError when it cannot be fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    root = cache_dir() / "benchmarks"
    try:
        snapshot_download(repository, repo_type="dataset", local_dir=root / folder)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as cause:
        reason = " ".join(str(cause).split())[:200]
        raise InputError(
            f'the data set "{repository}" cannot be fetched from the hub ({reason}); log in where it is gated, or fetch it by hand and '
            "give the folder above it with --data-root."
        ) from None
    return root
