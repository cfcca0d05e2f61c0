"""LLaVA-Bench, in the wild and COCO (arXiv 2304.08485): open questions on pictures; harmless, for utility and over-refusal.

Layout: `llava_bench/questions.jsonl` and `llava_bench/images/` (in the wild, as on the hub), or the files of LLaVA's repository below
`llava_eval/playground/data/`: `coco2014_val_qa_eval/qa90_questions.jsonl` and the question texts of the former.
"""

from __future__ import annotations

from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.published import BLANK, finished, first_file, first_folder, json_lines, picture
from safesteer_interp.requests import Attack, ImageSource, Request

WILD = ("questions.jsonl", "playground/data/eval/llava-bench-in-the-wild/questions.jsonl",
        "playground/data/eval/llava-bench-in-the-wild/questions_text_only.jsonl")  # fmt: skip
COCO = ("playground/data/coco2014_val_qa_eval/qa90_questions.jsonl", "qa90_questions.jsonl")


def load_llava_bench(root: Path, *, coco: bool = False, blank: bool = False) -> list[Request]:
    """The 60 questions in the wild, or with `coco` the 90 on COCO photographs; `blank`: beside a blank picture.

    Raises InputError naming file, line and field; the file of texts alone can only be asked with `blank`.
    """
    base = Path(root) / "llava_eval"
    path = first_file(base, COCO if coco else WILD, "LLaVA-Bench")
    fields = ("question_id", "text") if blank else ("question_id", "text", "image")
    images = first_folder(base, ("val2014", "images") if coco else ("images", "playground/data/eval/llava-bench-in-the-wild/images"))
    kind = "coco" if coco else "wild"
    requests = []
    for row in json_lines(path, fields):
        number = row["question_id"]
        image: ImageSource = BLANK if blank else picture(images, str(row["image"]), f"{path}, question {number}: its image")
        requests.append(
            Request(
                str(row["text"]),
                image,
                id=f"llava-bench-{kind}-{number}",
                attack=Attack.NONE,
                scenario=str(row.get("category") or kind),
                dataset="llava_bench",
            )
        )
    return finished(requests, "LLaVA-Bench", "fetch its pictures, or ask for llava_bench:blank, which needs none.")


ENTRY = Dataset(
    "LLaVA-Bench: open questions on pictures; harmless; options: coco, blank",
    load_llava_bench,
    folder="llava_eval",
    licence="Apache-2.0",
    citation="arXiv:2304.08485",
)
