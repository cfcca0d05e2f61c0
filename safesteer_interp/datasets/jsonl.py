"""Requests from a file of JSON lines: the way to bring any other data set.

One object per line with the fields `id`, `text`, `harmful` (required) and `image`, `attack`, `scenario`, `pair`, `split`, `intent`
(optional). `image` is a path relative to the file's folder and may not leave it.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from safesteer_interp.errors import InputError, did_you_mean
from safesteer_interp.requests import Attack, ImageFile, Request, Split

FIELDS = ("id", "text", "harmful", "image", "attack", "scenario", "pair", "split", "intent")


def load_jsonl(path: Path | str, dataset: str | None = None) -> list[Request]:
    """The requests of a file of JSON lines; `dataset` defaults to the file's stem. Blank lines are skipped.

    Without `attack`, a harmful request is CB beside an image and TEXT without, a harmless one `none`. Raises InputError, naming
    file, line and field, for a missing file, a malformed line, an unknown field, a repeated id, or an image outside the folder.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path of the data set.") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise InputError(f"{path} cannot be read as UTF-8 text ({cause}).") from None
    requests: list[Request] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        request = _request(line, path, f"{path}, line {number}", dataset or path.stem)
        if request.id in seen:
            raise InputError(f'{path}, line {number}: field "id" repeats "{request.id}" of line {seen[request.id]}; ids must be unique.')
        seen[request.id] = number
        requests.append(request)
    if not requests:
        raise InputError(f"{path} holds no request; expected one JSON object per line.")
    return requests


def _request(line: str, path: Path, where: str, dataset: str) -> Request:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as cause:
        raise InputError(f"{where}: not valid JSON ({cause.msg} at column {cause.colno}).") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object with the fields {', '.join(FIELDS)}.")
    for field in row:
        if field not in FIELDS:
            raise InputError(f'{where}: field "{field}" is unknown.' + did_you_mean(field, FIELDS))
    harmful = row.get("harmful")
    if not isinstance(harmful, bool):
        raise InputError(f'{where}: field "harmful" must be true or false, not {harmful!r}.')
    name = _text(row, "image", where, required=False)
    default = (Attack.CB if name else Attack.TEXT) if harmful else Attack.NONE
    return Request(
        id=_text(row, "id", where),
        text=_text(row, "text", where),
        harmful=harmful,
        attack=_member(row, "attack", Attack, default, where),
        image=ImageFile(_inside(path.parent, name, where)) if name else None,
        scenario=_text(row, "scenario", where, required=False),
        pair=_text(row, "pair", where, required=False),
        split=_member(row, "split", Split, Split.TEST, where),
        dataset=dataset,
        intent=_text(row, "intent", where, required=False),
    )


def _text(row: dict[str, Any], field: str, where: str, required: bool = True) -> str:
    value = row.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value.strip()):
        raise InputError(f'{where}: field "{field}" must be {"a non-empty" if required else "a"} text, not {value!r}.')
    return value


E = TypeVar("E", bound=StrEnum)


def _member(row: dict[str, Any], field: str, kind: type[E], default: E, where: str) -> E:
    value = row.get(field)
    if value is None:
        return default
    try:
        return kind(value)
    except ValueError:
        known = [member.value for member in kind]
        raise InputError(f'{where}: field "{field}" is {value!r}.' + did_you_mean(str(value), known)) from None


def _inside(folder: Path, name: str, where: str) -> Path:
    if "\0" in name or Path(name).is_absolute() or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise InputError(f'{where}: field "image" is "{name}", which leaves the folder {folder}; use a relative path inside it.')
    if not (folder / name).is_file():
        raise InputError(f'{where}: field "image" names {folder / name}, which does not exist.')
    return folder / name
