"""XSTest (arXiv 2308.01263): 250 safe prompts that sound unsafe, and 200 unsafe contrasts. Layout: `xstest/xstest_prompts.csv`.

A safe prompt and its contrast of the same type and keyword are a pair. With `blank` every prompt stands beside a blank picture, which
measures over-refusal of multimodal requests.
"""

from __future__ import annotations

from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.figstep import read_csv
from safesteer_interp.datasets.published import beside, finished, first_file
from safesteer_interp.errors import InputError
from safesteer_interp.requests import Attack, Request


def load_xstest(root: Path, *, blank: bool = False, contrasts: bool = True) -> list[Request]:
    """The prompts in the order of the file; `contrasts=False`: the safe ones alone. Raises InputError for another label."""
    path = first_file(Path(root) / "xstest", ("xstest_prompts.csv", "xstest_v2_prompts.csv"), "XSTest")
    rows = read_csv(path, ("prompt", "type", "label"))
    seen: dict[str, int] = {}
    places = []
    for row in rows:
        if row["label"] not in ("safe", "unsafe"):
            raise InputError(f'{path}: label "{row["label"][:40]}" is neither safe nor unsafe.')
        seen[row["type"]] = seen.get(row["type"], -1) + 1
        places.append(seen[row["type"]])
    keyword = {(row["type"], place): row.get("focus", "") for row, place in zip(rows, places, strict=True)}
    requests = []
    for row, place in zip(rows, places, strict=True):
        base = row["type"].removeprefix("contrast_")
        twins = keyword.get((base, place)) == keyword.get((f"contrast_{base}", place))
        own = f"xstest-{row['type']}-{place:02d}"
        if contrasts or row["label"] == "safe":
            requests.append(
                Request(
                    row["prompt"],
                    beside(None, blank),
                    id=own,
                    harmful=row["label"] == "unsafe",
                    attack=Attack.CB if blank else Attack.TEXT,
                    scenario=base,
                    pair=f"xstest-{base}-{place:02d}" if twins else own,
                    dataset="xstest",
                )
            )
    return finished(requests, "XSTest")


ENTRY = Dataset(
    "XSTest: safe prompts that sound unsafe, and their contrasts; options: blank, contrasts",
    load_xstest,
    folder="xstest",
    licence="CC BY 4.0",
    citation="arXiv:2308.01263",
)
