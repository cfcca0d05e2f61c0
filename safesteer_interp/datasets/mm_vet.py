"""MM-Vet (arXiv 2308.02490): 218 open questions on pictures, graded 0 to 1 by a model (`mm_vet` among the judges); all harmless.

Layout: `mm_vet/mm-vet.json` and `mm_vet/images/` (as mm-vet.zip unpacks, also below `mm-vet/`), or HiddenDetect's question list
`mm_vet/data/MM-Vet/mm-vet_metadata.json`, which has no reference answers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import BLANK, FETCH, checked, finished, first_file, first_folder, picture
from safesteer_interp.errors import InputError
from safesteer_interp.reading import read_json
from safesteer_interp.requests import Attack, ImageSource, Request

OFFICIAL = ("mm-vet.json", "mm-vet/mm-vet.json")
LISTED = ("data/MM-Vet/mm-vet_metadata.json",)


def load_mm_vet(root: Path, *, blank: bool = False) -> list[Request]:
    """The questions; `blank`: beside a blank picture, for over-refusal only (no question can be answered then)."""
    base = Path(root) / "mm_vet"
    images = first_folder(base, ("images", "mm-vet/images", "data/MM-Vet"))
    requests = []
    for number, row in _rows(base):
        name = str(row.get("imagename") or Path(str(row.get("img", ""))).name)
        image: ImageSource = BLANK if blank else picture(images, name, f"MM-Vet's {number}: its picture")
        skills = row.get("capability")
        scenario = "+".join(map(str, skills)) if isinstance(skills, list) else "MM-Vet"
        question = str(row.get("question") or row.get("txt"))
        requests.append(
            Request(
                question, image, id=f"mm-vet-{number}", attack=Attack.NONE, scenario=scenario, pair=f"mm-vet-{number}", dataset="mm_vet"
            )
        )
    return finished(requests, "MM-Vet", "fetch mm-vet.zip, or ask for mm_vet:blank, which needs no pictures.")


def mm_vet_references(root: Path, *, blank: bool = False) -> dict[str, object]:
    """Request id -> the right answer with its <AND> and <OR>; empty for the list without answers, and for blank pictures."""
    rows = [] if blank else _rows(Path(root) / "mm_vet")
    return {f"mm-vet-{number}": row["answer"] for number, row in rows if isinstance(row.get("answer"), str)}


def _rows(base: Path) -> list[tuple[str, dict[str, Any]]]:
    path = first_file(base, (*OFFICIAL, *LISTED), "MM-Vet")
    rows = read_json(path, FETCH)
    if isinstance(rows, dict):
        return [(str(n), checked(row, ("imagename", "question", "answer"), f"{path}, {n}")) for n, row in rows.items()]
    if isinstance(rows, list):
        return [(str(r["id"]), r) for r in (checked(row, ("id", "txt", "img"), f"{path}, entry {n}") for n, row in enumerate(rows))]
    raise InputError(f"{path} must hold MM-Vet's JSON object from id to question, or a list of questions.")


ENTRY = Dataset(
    "MM-Vet: open questions on pictures, graded by a model; harmless; option: blank",
    load_mm_vet,
    folder="mm_vet",
    licence="CC BY-NC 4.0 (data)",
    citation="arXiv:2308.02490",
    references=mm_vet_references,
)
