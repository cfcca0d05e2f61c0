"""The conclusions and the replication table as Markdown: parts of the README between marks, and figures/README.md.

The marked parts are never edited by hand; a test holds that they are what the committed results say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from safesteer_interp.errors import InputError
from safesteer_interp.files import write_text
from safesteer_interp.report.conclusions import Answer, Sentence
from safesteer_interp.report.records import Finding
from safesteer_interp.report.replication import AGREES, Row, asides
from safesteer_interp.report.results import Results
from safesteer_interp.report.tables import escape_markdown

BEGIN = "<!-- what was learned: written by `safesteer report --readme`, not by hand -->"
END = "<!-- end of what was learned -->"
PICTURE_BEGIN = "<!-- what the picture shows: written by `safesteer report --readme`, not by hand -->"
PICTURE_END = "<!-- end of what the picture shows -->"
PICTURE = "slips"
"""The question that the picture at the head of the README answers; its marks may be left out."""
SHORT = 2
"""Sentences per question about the models in the README; the gallery has all."""


def write_readme(readme: Path, figures: Path) -> bool:
    """Puts what the results say between the marks of a README; True when that changed it.

    Raises InputError when the file is missing, is no text, or has a mark without its end.
    """
    try:
        old = readme.read_text(encoding="utf-8")
    except OSError as cause:
        raise InputError(f"{readme} is not readable ({cause.strerror}).") from None
    except UnicodeDecodeError as cause:
        raise InputError(f"{readme} is not UTF-8 text ({cause.reason} at byte {cause.start}); save it as UTF-8.") from None
    if BEGIN not in old or END not in old.partition(BEGIN)[2]:
        raise InputError(f'{readme} has no place for the conclusions; put the lines "{BEGIN}" and "{END}" where they belong.')
    if PICTURE_BEGIN in old and PICTURE_END not in old.partition(PICTURE_BEGIN)[2]:
        raise InputError(f'{readme} has "{PICTURE_BEGIN}" without "{PICTURE_END}" after it; put that line where the part ends.')
    root = quote(Path(os.path.relpath(figures, readme.parent)).as_posix())
    new = _between(old, BEGIN, END, short_form(figures, "" if root == "." else f"{root}/"))
    if PICTURE_BEGIN in new:
        new = _between(new, PICTURE_BEGIN, PICTURE_END, takeaway(figures))
    if new == old:
        return False
    write_text(readme, new)
    return True


def _between(text: str, begin: str, end: str, words: str) -> str:
    """The text with other words between two marks."""
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n\n{words}\n{end}{rest.partition(end)[2]}"


def takeaway(figures: Path) -> str:
    """What the picture at the head of the README shows, said from claims: sentences of one question. Raises as `Results` does."""
    results, model = _first(figures)
    answer = next(a for a in results.answers(model) if a.id == PICTURE)
    return "**" + " ".join(escape_markdown(sentence.alone) for sentence in answer.sentences) + "**\n"


def short_form(figures: Path, root: str = "figures/") -> str:
    """The conclusions on the first model, a line per question, then the findings with their verdicts; `root` leads from the README to
    the results. Raises as `Results` does."""
    results, model = _first(figures)
    places = results.places(model)
    lines = [answer_line(answer, root, places) for answer in results.answers(model)]
    table = finding_table(results.findings, model, root)
    folded = [
        "<details>",
        f"<summary>All {len(table) - 2} findings, with their questions and verdicts</summary>",
        "",
        *table,
        "",
        "</details>",
    ]
    return "\n".join([*lines, "", *folded]) + "\n"


def overview(results: Results) -> str:
    """figures/README.md: conclusions, findings and replication of the first model, for readers without the gallery."""
    if not results.models:
        return "# Known-answer checks\n\nNo finding on a real model lies here.\n"
    model = results.models[0]
    places = results.places(model)
    about = f"On {escape_markdown(model)}; written by `safesteer report` from the claims. The gallery is index.html."
    lines = ["# What was learned", "", about, ""]
    for answer in results.answers(model):
        lines += [f"## {answer.question}", "", *(f"- {sentence_line(s, '', places)}" for s in answer.sentences), ""]
    lines += ["# Findings", "", *finding_table(results.findings, model, ""), "", "# The paper, item by item", ""]
    return "\n".join([*lines, *replication_table(results.replication(model), "", places)]) + "\n"


def answer_line(answer: Answer, root: str, places: Mapping[str, str]) -> str:
    """One bullet: the question, and its first sentences below it; all of them where it asks of every model."""
    shown = answer.sentences if answer.id == "models" else answer.sentences[:SHORT]
    return "\n".join([f"- **{answer.question}**", *(f"  - {sentence_line(s, root, places)}" for s in shown)])


def sentence_line(sentence: Sentence, root: str, places: Mapping[str, str]) -> str:
    """A sentence with number, interval, n, verdict and a link to its finding; `places`: finding -> its result, below `root`."""
    text = escape_markdown(sentence.text)
    if not sentence.claim:
        return text
    numbers = escape_markdown(f"{sentence.shown}, {sentence.counted}")
    link = f"[{sentence.finding}]({_place(root, sentence.finding, places)})"
    verdict = f"**{sentence.verdict}**" + (f": {escape_markdown(sentence.cause)}" if sentence.cause else "")
    return f"{text.removesuffix('.')} ({numbers}; {verdict}, {link})."


def finding_table(findings: Sequence[Finding], model: str, root: str) -> list[str]:
    """Each finding with its question, what it replicates and its verdicts on one model."""
    lines = ["| finding | question | in the paper | supported | contradicted | undecided |", "| --- | --- | --- | ---: | ---: | ---: |"]
    for finding in findings:
        entry = next((e for e in finding.entries if e.name == model and e.status == "done"), None)
        if entry is not None:
            counts = " | ".join(str(entry.counts.get(v, 0)) for v in ("supported", "contradicted", "undecided"))
            link = f"[{finding.id}]({_place(root, finding.id, {finding.id: f'{finding.id}/{entry.folder}'})})"
            lines.append(f"| {link} | {escape_markdown(finding.question)} | {escape_markdown(finding.replicates)} | {counts} |")
    return lines


def replication_table(rows: Sequence[Row], root: str | None, places: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Each item of the paper: what it says, what this model shows, whether they agree and what is to be known of that, what differs; no
    links for a root of None."""
    lines = ["| item | the paper says | here | outcome | what differs |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        here = [
            f"{escape_markdown(c['statement'])} {escape_markdown(c['shown'])}, {escape_markdown(c['counted'])}: {AGREES[c['verdict']]} "
            f"({''.join(f'{escape_markdown(words)}; ' for words in asides(c))}{_link(root, finding, places)})"
            for finding, c in row.claims
        ] or [f"see {_link(root, finding, places)}" for finding in row.findings]
        lines.append(
            f"| {row.item.key} | {row.item.says or '–'} | {'<br>'.join(here) or '–'} | {row.outcome} | {row.item.differs or '–'} |"
        )
    return lines


def paper_page(figures: Path) -> str:
    """The replication table as a page of its own, without links to results: for the documentation. Raises as `Results` does."""
    results, model = _first(figures)
    about = f"SafeSteer (arXiv 2605.11716) on {escape_markdown(model)}, from the claims of this checkout. The gallery has every model."
    return "\n".join(["# The paper, item by item", "", about, "", *replication_table(results.replication(model), None)]) + "\n"


def _first(figures: Path) -> tuple[Results, str]:
    """All results, and the model that is told of first."""
    results = Results(figures)
    if not results.models:
        raise InputError(f"no finding on a real model below {figures}; make some with `safesteer run --all`.")
    return results, results.models[0]


def _link(root: str | None, finding: str, places: Mapping[str, str]) -> str:
    return f"`{finding}`" if root is None else f"[{finding}]({_place(root, finding, places)})"


def _place(root: str, finding: str, places: Mapping[str, str]) -> str:
    """Where a result lies; the folder of its finding where there is none, or where its name would break the link."""
    place = places.get(finding, finding)
    return f"{root}{place}" if re.fullmatch(r"[\w.,=@/-]+", place, re.ASCII) else f"{root}{finding}"
