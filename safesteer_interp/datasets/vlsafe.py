"""VLSafe (arXiv 2311.10081): harmful texts beside harmless COCO photographs; AutoSteer's harmless rewrites of them make pairs.

Layout: `vlsafe/data/VLSafe/harmlessness_examine.jsonl` (1,110), `vlsafe/dataset/VLSafe/train/vlsafe_convert_safe.jsonl` (3,000 pairs),
photographs under `vlsafe/images/<image_id>` (COCO train2017).
"""

from __future__ import annotations

from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import BLANK, finished, first_file, first_folder, json_lines, picture
from safesteer_interp.requests import Attack, ImageSource, Request


def load_vlsafe(root: Path, *, pairs: bool = False, blank: bool = False) -> list[Request]:
    """The harmful queries; with `pairs` AutoSteer's training pairs instead, each a harmful query and its harmless rewrite.

    `blank`: a blank picture in place of the photographs, which carry no harm. Raises InputError naming file, line and field.
    """
    base = Path(root) / "vlsafe"
    images = first_folder(base, ("images", "train2017"))
    if pairs:
        names = ("dataset/VLSafe/train/vlsafe_convert_safe.jsonl", "vlsafe_convert_safe.jsonl")
        fields: tuple[str, ...] = ("image_id", "orig_query", "safe_query")
    else:
        names, fields = ("data/VLSafe/harmlessness_examine.jsonl", "harmlessness_examine.jsonl"), ("image_id", "query")
    path = first_file(base, names, "VLSafe")
    requests = []
    for number, row in enumerate(json_lines(path, fields), start=1):
        name = f"vlsafe-{'pair' if pairs else 'examine'}-{number:04d}"
        where = f'{path}, line {number}: field "image_id"'
        image: ImageSource = BLANK if blank else picture(images, str(row["image_id"]), where)
        for field in fields[1:]:
            harmful = field != "safe_query"
            side = f"/{'harmful' if harmful else 'harmless'}" if pairs else ""
            requests.append(
                Request(
                    str(row[field]),
                    image,
                    id=name + side,
                    harmful=harmful,
                    attack=Attack.CB,
                    scenario="VLSafe",
                    pair=name,
                    dataset="vlsafe",
                )
            )
    return finished(requests, "VLSafe", "fetch COCO train2017 into vlsafe/images, or ask for vlsafe:blank, which needs no pictures.")


ENTRY = Dataset(
    "VLSafe: harmful texts beside COCO photographs; options: pairs (with harmless rewrites), blank",
    load_vlsafe,
    folder="vlsafe",
    licence="not stated; rewrites (AutoSteer): MIT",
    citation="arXiv:2311.10081; pairs: arXiv:2507.13255",
)
