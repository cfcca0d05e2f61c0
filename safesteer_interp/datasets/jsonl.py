"""Requests from a file of JSON lines: the way to bring any other data set.

One object per line with the fields `id`, `text`, `harmful` (required) and `image`, `attack`, `scenario`, `pair`, `split`, `intent`
(optional; `FIELDS` says what each means, and what stands in for it when it is missing). `image` is a path relative to the file's
folder and may not leave it.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from safesteer_interp.datasets.derived import Derived, derive
from safesteer_interp.datasets.roots import inside
from safesteer_interp.errors import BadRequestError, InputError, did_you_mean
from safesteer_interp.reading import Odd, lines, parse_json, printable, read_text, unsound
from safesteer_interp.requests import Attack, ImageFile, Request, Split

FIELDS: dict[str, str] = {
    "id": "required; a name that no other row has",
    "text": "required; the user's turn, without image placeholder or chat template",
    "harmful": "required; true or false",
    "image": "path of a picture, relative to the file's folder and inside it",
    "attack": "TEXT, CB, SD, TYPO, SD_TYPO or none; missing: by form (without image TEXT, with one CB), harmless rows as their partners",
    "scenario": "a category of your own, e.g. 06-Fraud",
    "pair": "a name that a harmful row shares with its harmless twin in the same form; missing: the row is a pair of its own",
    "split": "fit, validation or test; missing: 50, 15 and 35 % of the pairs, by the hash of their name",
    "intent": "the activity spelled out, for judges; missing: the text",
}
"""Field -> what it means (`safesteer list fields`)."""

PICTURED = "CB, SD, TYPO, SD_TYPO"
"""The attacks that come with a picture; harmless rows that are no one's twin are `none`, with or without."""

E = TypeVar("E", bound=StrEnum)


def load_jsonl(path: Path | str, dataset: str | None = None, *, bad: list[BadRequestError] | None = None) -> list[Request]:
    """The requests of a file of JSON lines; `dataset` defaults to the file's stem. Blank lines are skipped.

    Raises BadRequestError, naming file, line and field, for a malformed row: broken JSON, an unknown, missing, repeated or wrongly
    filled field, half a surrogate pair or a NUL in a text, an id that is there twice, an image that is missing or outside the folder, an
    attack that needs a picture and has none (or TEXT with one), a split other than that of an earlier row of the pair.
    With a list `bad` such rows are put there and left out instead. InputError when the file is missing, not UTF-8, or holds no
    request that can be used.
    """
    return load_rows(path, dataset, bad=bad).requests


def load_rows(path: Path | str, dataset: str | None = None, *, bad: list[BadRequestError] | None = None) -> Derived:
    """The requests as `load_jsonl` gives them, with a note on what was derived for fields that are missing."""
    path = Path(path)
    rows: list[Request] = []
    given: list[frozenset[str]] = []
    seen: dict[str, int] = {}
    splits: dict[str, tuple[Split, int]] = {}
    failures: list[BadRequestError] = []
    for number, line in lines(read_text(path, "check the path of the data set.")):
        where = f"{path}, line {number}"
        name = f"line {number}"
        try:
            row = _object(line, where)
            if isinstance(row.get("id"), str):
                name = printable(row["id"])
            request = _request(row, path, where, printable(dataset or path.stem))
            if request.id in seen:
                raise InputError(f'{where}: field "id" repeats "{name}" of line {seen[request.id]}; ids must be unique.')
            if row.get("split") is not None:
                split, earlier = splits.setdefault(request.pair, (request.split, number))
                if split is not request.split:
                    raise InputError(
                        f'{where}: field "split" is {request.split}, but line {earlier} of the same pair "{printable(request.pair)}" is '
                        f"{split}; give all rows of a pair one split, or the rows pairs of their own."
                    )
        except InputError as cause:
            failures.append(BadRequestError(str(cause), name))
            if bad is None:
                raise failures[-1] from None
            continue
        seen[request.id] = number
        rows.append(request)
        given.append(frozenset(field for field in row if row[field] is not None))
    if not rows:
        first = f" The first: {failures[0]}" if failures else ""
        raise InputError(f"{path} holds no request{' that can be used' if failures else ''}; expected one JSON object per line.{first}")
    if bad is not None:
        bad += failures
    return derive(rows, given)


def _object(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object with the fields {', '.join(FIELDS)}.")
    for field in row:
        if field not in FIELDS:
            raise InputError(f'{where}: field "{printable(field)}" is unknown.' + did_you_mean(field, FIELDS))
    return row


def _request(row: dict[str, Any], path: Path, where: str, dataset: str) -> Request:
    harmful = row.get("harmful")
    if not isinstance(harmful, bool):
        raise InputError(f'{where}: field "harmful" must be true or false, not {_shown(harmful)}.')
    name = _text(row, "image", where, required=False)
    attack = _member(row, "attack", Attack, Attack.NONE, where)
    if attack not in (Attack.NONE, Attack.TEXT) and not name:
        raise InputError(f'{where}: field "attack" is {attack}, which needs a picture; name it in "image", or write TEXT or leave it out.')
    if attack is Attack.TEXT and name:
        raise InputError(f'{where}: field "attack" is TEXT, but there is an "image"; remove it, or write {PICTURED} or leave it out.')
    advice = "correct the path or remove the row."
    return Request(
        id=_text(row, "id", where),
        text=_text(row, "text", where),
        harmful=harmful,
        attack=attack,
        image=ImageFile(inside(path.parent, name, f'{where}: field "image"', advice)) if name else None,
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
        raise InputError(f'{where}: field "{field}" must be {"a non-empty" if required else "a"} text, not {_shown(value)}.')
    if reason := unsound(value):
        raise InputError(f'{where}: field "{field}" holds {reason}; write the whole character or remove it.')
    return value


def _member(row: dict[str, Any], field: str, kind: type[E], default: E, where: str) -> E:
    value = row.get(field)
    if value is None:
        return default
    known = [member.value for member in kind]
    if isinstance(value, str):
        same = [name for name in known if name.lower() == value.lower()]
        try:
            return kind(same[0] if same else value)
        except ValueError:
            pass
    raise InputError(f'{where}: field "{field}" is {_shown(value)}.' + did_you_mean(str(value)[:40], known))


def _shown(value: Any) -> str:
    """A value as it may stand in a sentence: whole when short."""
    if isinstance(value, Odd):
        return repr(value)
    try:
        text = printable(repr(value))
    except RecursionError:
        return "a value nested too deep"
    return text if len(text) <= 60 else text[:59] + "…"
