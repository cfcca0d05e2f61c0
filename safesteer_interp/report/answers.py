"""The answers of a comparison as one page: request, method, answer and every judge's verdict, safe to open whatever a model wrote.

Answers that comply with a harmful request, and those that any judge of harm calls unsafe, are folded to their first words and the rest
left out, unless all is asked for: a page that is passed around should not carry them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from safesteer_interp.files import write_text

WORDS = 6
"""First words of a folded answer that are shown."""
WIDTH = 60
"""Characters of them at most: some languages put no spaces between words."""
LONGEST = 4000
"""Characters of any text that are shown."""


def shown_answer(row: Mapping[str, Any], *, show_answers: bool = False) -> dict[str, Any]:
    """The answer as the page shows it: `text`, and `folded` where the rest was left out.

    A refusal is shown whole unless a judge of harm called it unsafe (`unsafe`; of rows without that field, any verdict of 1 counts).
    """
    text = printable(str(row["answer"]))
    unsafe = row["unsafe"] if "unsafe" in row else any(row["verdicts"].values())
    if show_answers or not row["harmful"] or (row["outcome"] == "refuse" and not unsafe):
        return {"text": text[:LONGEST] + ("…" if len(text) > LONGEST else ""), "folded": False}
    words = text.split()
    first = " ".join(words[:WORDS])[:WIDTH]
    folded = first != " ".join(words)
    return {"text": first + (" …" if folded else ""), "folded": folded}


def printable(text: str) -> str:
    """The text without control characters, halves of surrogate pairs and marks that reorder lines; each becomes U+FFFD."""
    return "".join(c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cs", "Co", "Cf") else "\ufffd" for c in text)


def answers_page(rows: Iterable[Mapping[str, Any]], *, title: str = "Answers", show_answers: bool = False) -> str:
    """HTML of one table, requests grouped: everything that a model or a data set wrote is escaped."""
    groups: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        labels = {name: printable(str(row[name]))[:LONGEST] for name in ("request", "benchmark", "attack", "text")}
        group = groups.setdefault(
            (str(row["benchmark"]), str(row["request"])),
            labels | {"harmful": bool(row["harmful"]), "answers": []},
        )
        said = {printable(name): value for name, value in row["verdicts"].items()}
        group["answers"].append(
            {"method": printable(str(row["method"])), "seed": row["seed"], "outcome": str(row["outcome"]), "verdicts": said}
            | shown_answer(row, show_answers=show_answers)
        )
    environment = Environment(loader=PackageLoader("safesteer_interp.report", "templates"), autoescape=True, trim_blocks=True)
    judges = list(dict.fromkeys(name for group in groups.values() for answer in group["answers"] for name in answer["verdicts"]))
    return environment.get_template("answers.html.j2").render(
        title=title, groups=list(groups.values()), judges=judges, show_answers=show_answers
    )


def write_answers(rows: Iterable[Mapping[str, Any]], path: Path, *, title: str = "Answers", show_answers: bool = False) -> Path:
    """Writes the page; returns its path."""
    write_text(path, answers_page(rows, title=title, show_answers=show_answers))
    return path
