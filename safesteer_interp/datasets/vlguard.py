"""VLGuard (arXiv 2402.02207): safe pictures with a safe (SS) and an unsafe instruction (SU), and unsafe pictures (U).

Layout: `vlguard/data/test.json` (or `vlguard/test.json`, and `train`), pictures under `vlguard/test/<source>/<file>` as the archives of
the hub unpack. A picture's two instructions are a pair. Reference answers are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import BLANK, FETCH, checked, finished, first_file, first_folder, picture
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.reading import read_json
from safesteer_interp.requests import Attack, ImageSource, Request

SUBSETS = ("SS", "SU", "U")
_NAMES = {"safe_instruction": "SS", "unsafe_instruction": "SU", "instruction": "U"}


def load_vlguard(root: Path, *, subsets: Sequence[str] | None = None, train: bool = False, blank: bool = False) -> list[Request]:
    """The instructions of the test file (or the training file), of the `subsets` asked for.

    `blank`: a blank picture in place of each, for SS and SU only, whose harm is in the text; U without its picture means nothing.
    Raises InputError naming the missing file, row or field.
    """
    wanted = tuple(subsets) if subsets is not None else ("SS", "SU") if blank else SUBSETS
    for name in wanted:
        if name not in SUBSETS:
            raise UsageError(f'VLGuard has no subset "{name}".' + did_you_mean(name, SUBSETS))
    if blank and "U" in wanted:
        raise UsageError("the harm of VLGuard's U is in its pictures; with blank ones ask for subsets=SS+SU.")
    base, part = Path(root) / "vlguard", "train" if train else "test"
    path = first_file(base, (f"data/{part}.json", f"{part}.json"), "VLGuard")
    images = first_folder(base, (part, f"data/{part}", "images"))
    rows = read_json(path, FETCH)
    if not isinstance(rows, list):
        raise InputError(f"{path} must hold a JSON list of records.")
    requests = []
    for number, record in enumerate(rows):
        where = f"{path}, record {number}"
        row = checked(record, ("id", "image"), where)
        for subset, text in _instructions(row, where):
            if subset in wanted:
                image: ImageSource = BLANK if blank else picture(images, str(row["image"]), f'{where}: field "image"')
                requests.append(_request(row, subset, text, image, number))
    advice = "fetch its pictures (gated on the hub: ys-zong/VLGuard), or ask for vlguard:blank, which needs none."
    return finished(requests, f"VLGuard's {part} set", advice)


def _instructions(row: dict[str, Any], where: str) -> list[tuple[str, str]]:
    """(subset, instruction) of a record."""
    turns = row.get("instr-resp")
    if not isinstance(turns, list):
        raise InputError(f'{where}: field "instr-resp" is missing or no list.')
    found = []
    for turn in turns:
        names = [name for name in _NAMES if isinstance(turn, dict) and name in turn]
        if len(names) != 1:
            raise InputError(f'{where}: each entry of "instr-resp" needs one of {", ".join(_NAMES)}.')
        found.append((_NAMES[names[0]], str(checked(turn, names, where)[names[0]])))
    return found


def _request(row: dict[str, Any], subset: str, text: str, image: ImageSource, number: int) -> Request:
    form: Literal[Attack.CB, Attack.SD] = Attack.SD if subset == "U" else Attack.CB
    return Request(
        text,
        image,
        id=f"vlguard-{number:04d}/{subset}",
        harmful=subset != "SS",
        attack=form,
        scenario=str(row.get("harmful_subcategory") or "safe picture"),
        pair=f"vlguard-{number:04d}",
        dataset="vlguard",
    )


ENTRY = Dataset(
    "VLGuard: safe and unsafe instructions on safe pictures (SS, SU), unsafe pictures (U); options: subsets, train, blank, hub",
    load_vlguard,
    folder="vlguard",
    licence="none stated; gated on the hub",
    citation="arXiv:2402.02207",
    hub="ys-zong/VLGuard",
)
