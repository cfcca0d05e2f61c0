"""MM-SafetyBench++ (arXiv 2603.15800): unsafe pictures and texts with minimally edited safe twins: pairs on real images.

Layout: `mm_safetybench_pp/test.jsonl` and its pictures, as on the hub (EchoSafe-MLLM/MM-SafetyBench-plus-plus). The names of its columns
could not be looked up where this was written; the likely ones are tried, and others are given as options.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import FETCH, finished, first_file, picture
from safesteer_interp.errors import InputError
from safesteer_interp.reading import lines, parse_json, printable, read_text, unsound
from safesteer_interp.requests import Attack, Request

COLUMNS = {
    "question": ("question", "prompt", "text", "query", "instruction"),
    "image": ("image", "image_path", "img", "image_file", "file_name"),
    "label": ("label", "safety", "type", "is_safe", "safe", "category_type"),
    "scenario": ("scenario", "category", "class", "topic"),
    "pair": ("pair_id", "pair", "question_id", "id", "idx"),
}
UNSAFE, SAFE = ("unsafe", "harmful"), ("safe", "harmless", "benign")
ASKS_SAFE = ("is_safe", "safe")
"""Columns whose name says what 1 and 0, true and false mean; elsewhere 1 may as well mean unsafe."""


def load_mm_safetybench_pp(
    root: Path, *, question: str = "", image: str = "", label: str = "", scenario: str = "", pair: str = ""
) -> list[Request]:
    """The rows as pairs; the options name the columns where they are called otherwise.

    The label says "unsafe" or "safe" in one of the usual words, or is true, false, 1 or 0 in a column called `safe` or `is_safe`. Rows
    without a pair id are paired in the order of the file within their scenario. Raises InputError naming the line, and the columns that
    are there, for one that is missing.
    """
    base = Path(root) / "mm_safetybench_pp"
    path = first_file(base, ("test.jsonl", "all_questions.jsonl"), "MM-SafetyBench++")
    asked = {"question": question, "image": image, "label": label, "scenario": scenario, "pair": pair}
    requests, names, seen = [], dict[str, str](), dict[tuple[str, bool], int]()
    for number, line in lines(read_text(path, FETCH)):
        where = f"{path}, line {number}"
        row = parse_json(line, where)
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected a JSON object.")
        names = names or {what: _column(row, what, given, where) for what, given in asked.items()}
        unsafe = _unsafe(row.get(names["label"]), names["label"], where)
        topic = str(row.get(names["scenario"], "")) if names["scenario"] else ""
        place = seen[topic, unsafe] = seen.get((topic, unsafe), -1) + 1
        own = str(row[names["pair"]]) if names["pair"] and names["pair"] in row else str(place)
        text = row.get(names["question"])
        if not isinstance(text, str) or not text.strip() or unsound(text):
            raise InputError(f'{where}: field "{names["question"]}" is missing, empty or no text.')
        source = picture(base, str(row.get(names["image"], "")), f'{where}: field "{names["image"]}"')
        name = f"mmsb++-{topic}-{own}"
        requests.append(
            Request(
                text,
                source,
                id=f"{name}/{'unsafe' if unsafe else 'safe'}",
                harmful=unsafe,
                attack=Attack.SD,
                scenario=topic,
                pair=name,
                dataset="mm_safetybench_pp",
            )
        )
    if len({r.id for r in requests}) < len(requests):
        requests = [Request(r.text, r.image, id=f"{r.id}#{i}", harmful=r.harmful, attack=r.attack, scenario=r.scenario, pair=r.pair,
                            dataset=r.dataset) for i, r in enumerate(requests)]  # fmt: skip
    return finished(requests, "MM-SafetyBench++", "fetch the whole repository, or ask for mm_safetybench_pp:hub when online.")


def _column(row: dict[str, Any], what: str, given: str, where: str) -> str:
    """The column of that meaning: the one given, or the first likely one that is there."""
    likely: Sequence[str] = (given,) if given else COLUMNS[what]
    for name in likely:
        if name in row:
            return name
    if what in ("scenario", "pair") and not given:
        return ""
    there = ", ".join(printable(str(key)[:30]) for key in row)
    raise InputError(f"{where}: no column for the {what} ({', '.join(likely)}) among {there}; name it: mm_safetybench_pp:{what}=NAME.")


def _unsafe(value: Any, column: str, where: str) -> bool:
    word = str(value).strip().lower()
    if word in UNSAFE or word in SAFE:
        return word in UNSAFE
    if word in ("0", "1", "false", "true"):
        if column in ASKS_SAFE:
            return word in ("0", "false")
        raise InputError(
            f'{where}: field "{printable(column)}" is {word}, which does not say whether that is safe or unsafe; write the '
            f"words, or call the column {ASKS_SAFE[0]}."
        )
    raise InputError(
        f'{where}: field "{printable(column)}" is "{printable(word[:40])}", which is neither safe nor unsafe; name another column with '
        "label=NAME."
    )


ENTRY = Dataset(
    "MM-SafetyBench++: unsafe pictures with minimally edited safe twins; options: hub, and names of columns",
    load_mm_safetybench_pp,
    folder="mm_safetybench_pp",
    licence="CC BY 4.0",
    citation="arXiv:2603.15800",
    hub="EchoSafe-MLLM/MM-SafetyBench-plus-plus",
)
