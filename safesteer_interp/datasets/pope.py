"""POPE (arXiv 2305.10355): is there a such-and-such in the picture? Yes or no, on COCO photographs; utility with known answers.

Layout: `pope/output/coco/coco_pope_{random,popular,adversarial}.json` (JSON lines), photographs under `pope/val2014/`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import finished, first_file, first_folder, json_lines, picture
from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.reading import printable
from safesteer_interp.requests import Attack, Request

VARIANTS = ("random", "popular", "adversarial")


def load_pope(root: Path, *, variants: Sequence[str] | None = None) -> list[Request]:
    """The questions of some variants (all three by default). Raises InputError naming file, line and field."""
    base = Path(root) / "pope"
    images = first_folder(base, ("val2014", "images"))
    requests = []
    for variant, number, row in _rows(root, variants):
        requests.append(
            Request(
                str(row["text"]),
                picture(images, str(row["image"]), f"POPE, {variant}, question {number}: its image"),
                id=f"pope-{variant}-{number}",
                attack=Attack.NONE,
                scenario=variant,
                pair=f"pope-{row['image']}",
                dataset="pope",
            )
        )
    return finished(requests, "POPE", "fetch COCO val2014 into pope/val2014.")


def pope_references(root: Path, *, variants: Sequence[str] | None = None) -> dict[str, object]:
    """Request id -> "yes" or "no". Raises InputError for another label."""
    found: dict[str, object] = {}
    for variant, number, row in _rows(root, variants):
        if row["label"] not in ("yes", "no"):
            raise InputError(f'POPE, {variant}, question {number}: label "{str(row["label"])[:20]}" is neither yes nor no.')
        found[f"pope-{variant}-{number}"] = row["label"]
    return found


def grade_pope(answer: str, right: object) -> float:
    """1 when the first "yes" or "no" of the answer's first sentence is the right one.

    A sentence with neither counts as "yes", and what is said after it is not read, as the authors do it; they take any "no" or "not"
    in it for "no", also after "yes".
    """
    sentence = re.split(r"[.!?\n]", answer.lower().lstrip(" .!?\n\t\"'*"), maxsplit=1)[0]
    said = re.search(r"\b(yes|no|not)\b", sentence)
    return float(("no" if said and said[1] in ("no", "not") else "yes") == right)


def _rows(root: Path, variants: Sequence[str] | None) -> list[tuple[str, int, dict[str, object]]]:
    found: list[tuple[str, int, dict[str, object]]] = []
    for variant in tuple(variants) if variants is not None else VARIANTS:
        if variant not in VARIANTS:
            raise UsageError(f'POPE has no variant "{variant}".' + did_you_mean(variant, VARIANTS))
        name = f"coco_pope_{variant}.json"
        path = first_file(Path(root) / "pope", (f"output/coco/{name}", f"coco/{name}", name), "POPE")
        for row in json_lines(path, ("question_id", "image", "text", "label")):
            number = str(row["question_id"]).strip()
            if not (number.isascii() and number.isdecimal()):
                raise InputError(f'{path}: field "question_id" is "{printable(number[:40])}"; it must be a whole number.')
            found.append((variant, int(number), row))
    return found


ENTRY = Dataset(
    "POPE: yes-or-no questions on COCO photographs, graded; option: variants",
    load_pope,
    folder="pope",
    licence="MIT",
    citation="arXiv:2305.10355",
    references=pope_references,
    grade=grade_pope,
)
