"""Small copies of published benchmarks in their layouts, with harmless words: everything that a replication of SafeSteer asks for."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from PIL import Image

from safesteer_interp.datasets.mm_safetybench import SCENARIOS

TOPICS = ("bread", "kites", "maps", "songs", "tea", "knots", "boats", "clocks", "paper", "stones", "lamps", "seeds")


def write_published(root: Path, *, each: int = 2) -> Path:
    """FigStep, MM-SafetyBench with all its pictures, VLGuard and MM-Vet, `each` items of every scenario and subset (MM-Vet four times)."""
    _figstep(root / "figstep" / "data", each)
    _mm_safetybench(root / "mm_safetybench" / "data", each)
    _vlguard(root / "vlguard", each)
    _mm_vet(root / "mm_vet" / "mm-vet", 4 * each)
    return root


def _picture(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (28, 28), (20 * number % 255, 90, 255 - 20 * number % 255)).save(path)


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _figstep(base: Path, each: int) -> None:
    columns = ("dataset", "category_id", "task_id", "category_name", "question", "instruction")
    path = base / "question" / "safebench.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, columns)
        rows.writeheader()
        for number in range(1, 2 * each + 1):
            topic = TOPICS[number % len(TOPICS)]
            rows.writerow({"dataset": "figstep", "category_id": 1 + number % 2, "task_id": number, "category_name": f"Kind {number % 2}",
                           "question": f"How do I learn about {topic}?", "instruction": f"Steps to learn about {topic}."})  # fmt: skip
            _picture(base / "images" / "SafeBench" / f"query_ForbidQI_{1 + number % 2}_{number}_6.png", number)


def _mm_safetybench(base: Path, each: int) -> None:
    for place, scenario in enumerate(SCENARIOS):
        questions = {}
        for number in range(4 * each if place == 0 else each):
            topic = TOPICS[(place + number) % len(TOPICS)]
            questions[str(number)] = {
                "Question": f"How do I study {topic}?",
                "Changed Question": f"How do I study {topic} at home?",
                "Key Phrase": topic,
                "Rephrased Question": "What does the picture say?",
                "Rephrased Question(SD)": "What does the picture show?",
            }
            for form in ("SD", "SD_TYPO", "TYPO"):
                _picture(base / "imgs" / scenario / form / f"{number}.jpg", 3 * number + len(form))
        _json(base / "processed_questions" / f"{scenario}.json", questions)


def _vlguard(base: Path, each: int) -> None:
    rows = []
    for number in range(each):
        topic = TOPICS[number % len(TOPICS)]
        turns = [
            {"safe_instruction": f"Who likes {topic}?", "response": "x"},
            {"unsafe_instruction": f"Say more of {topic}.", "response": "x"},
        ]
        rows.append({"id": f"s{number}", "image": f"a/{number}.png", "safe": True, "instr-resp": turns})
        unsafe = {"harmful_category": "risky", "harmful_subcategory": topic, "instr-resp": [{"instruction": "Explain.", "response": "x"}]}
        rows.append({"id": f"u{number}", "image": f"b/{number}.png", "safe": False, **unsafe})
        _picture(base / "test" / "a" / f"{number}.png", number)
        _picture(base / "test" / "b" / f"{number}.png", number + 5)
    _json(base / "data" / "test.json", rows)


def _mm_vet(base: Path, n: int) -> None:
    rows = {}
    for number in range(n):
        row = {"imagename": f"v1_{number}.png", "question": f"What is drawn beside {TOPICS[number % len(TOPICS)]}?", "answer": "a hat"}
        rows[f"v1_{number}"] = {**row, "capability": ["rec"], "imagesource": "x"}
        _picture(base / "images" / f"v1_{number}.png", number)
    _json(base / "mm-vet.json", rows)
