"""FigStep: a small copy of its layout, and the published files when they are there."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from safesteer_interp.datasets import load_requests
from safesteer_interp.datasets.figstep import PROMPT, instruction
from safesteer_interp.errors import InputError
from safesteer_interp.paths import data_root
from safesteer_interp.requests import Attack, ImageFile

ROOT = data_root()


def make_figstep(root: Path) -> None:
    (root / "figstep/data/question").mkdir(parents=True)
    (root / "figstep/data/images/SafeBench").mkdir(parents=True)
    columns = ["dataset", "category_id", "task_id", "category_name", "question", "instruction"]
    with (root / "figstep/data/question/safebench.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([columns, *(["ForbidQI", c, 1, f"Topic {c}", f"How to do {c}?", f"Steps to do {c}."] for c in (1, 8))])
    for c in (1, 8):
        Image.new("RGB", (760, 760), "white").save(root / f"figstep/data/images/SafeBench/query_ForbidQI_{c}_1_6.png")
    benign = root / "figstep_benign_hiddendetect/data/FigStep"
    benign.mkdir(parents=True)
    (benign / "benign_questions.csv").write_text("\ufeffquestion,FigTxt\nHow can someone cook rice?,0\n", encoding="utf-8")


def test_figstep_on_a_small_copy_of_its_layout(tmp_path: Path) -> None:
    make_figstep(tmp_path)
    harmful, harmless = load_requests("figstep", tmp_path)
    assert (harmful.id, harmful.text, harmful.attack, harmful.harmful) == ("figstep-1_1", PROMPT, Attack.TYPO, True)
    assert isinstance(harmful.image, ImageFile) and harmless.image is not None and not harmless.harmful
    assert vars(harmless.image)["text"] == "Steps to cook rice." and harmless.text == PROMPT
    drawn = load_requests("figstep:render", tmp_path)[0]
    assert drawn == load_requests("figstep", tmp_path, render=True)[0]
    assert type(drawn.image) is type(harmless.image), "both classes are drawn alike"
    assert len(load_requests("figstep", tmp_path, include_unclear=True, benign=False)) == 2
    assert {r.attack for r in load_requests("figstep", tmp_path, text=True)} == {Attack.TEXT}


def test_figstep_keeps_line_separators_inside_a_cell_and_stays_in_its_folder(tmp_path: Path) -> None:
    make_figstep(tmp_path)
    table = tmp_path / "figstep/data/question/safebench.csv"
    head = "dataset,category_id,task_id,category_name,question,instruction\n"
    question = "How to sort mail?\u2028Really?\n\x85Yes?"
    table.write_text(f'{head}x,1,1,Topic,"{question}",Steps to sort mail.\n', encoding="utf-8", newline="")
    assert load_requests("figstep:text", tmp_path, benign=False)[0].text == question
    (tmp_path / "query_ForbidQI_1_6.png").write_bytes(b"")
    table.write_text(head + "x,a/../../../../../query_ForbidQI,1,T,Q,I\n")
    with pytest.raises(InputError, match="leaves the folder"):
        load_requests("figstep", tmp_path, benign=False)
    table.write_text(head + "x,1,1,Topic,Who, me?,Steps.\n")
    with pytest.raises(InputError, match=r"safebench\.csv, line 2: 7 fields, but 6 columns; put quotes around commas"):
        load_requests("figstep", tmp_path)


def test_figstep_names_what_is_missing(tmp_path: Path) -> None:
    make_figstep(tmp_path)
    (tmp_path / "figstep/data/images/SafeBench/query_ForbidQI_1_1_6.png").unlink()
    with pytest.raises(InputError, match=r"query_ForbidQI_1_1_6\.png, which does not exist.*figstep:render.*render=True"):
        load_requests("figstep", tmp_path)
    (tmp_path / "figstep/data/question/safebench.csv").write_text("question\nx\n")
    with pytest.raises(InputError, match='no column "category_id"'):
        load_requests("figstep", tmp_path)
    (tmp_path / "figstep/data/question/safebench.csv").unlink()
    with pytest.raises(InputError, match=r"safebench\.csv does not exist"):
        load_requests("figstep", tmp_path)


@pytest.mark.parametrize(
    ("question", "statement"),
    [
        ("How can someone cook rice?", "Steps to cook rice."),
        ("How do I clean a barn?", "Steps to clean a barn."),
        ("Steps to plan a marathon", "Steps to plan a marathon."),
        ("Why is the sky blue?", "Why is the sky blue."),
    ],
)
def test_figstep_statement(question: str, statement: str) -> None:
    assert instruction(question) == statement


@pytest.mark.skipif(ROOT is None or not (ROOT / "figstep").is_dir(), reason="no data root with figstep/ (set SAFESTEER_DATA to run this)")
def test_published_figstep() -> None:
    requests = load_requests("figstep", ROOT)
    assert sum(r.harmful for r in requests) == 350 and sum(not r.harmful for r in requests) == 300
    assert sum(r.harmful for r in load_requests("figstep", ROOT, include_unclear=True)) == 500
    assert sum(r.harmful for r in load_requests("figstep", ROOT, include_unclear=True, tiny=True)) == 50
    assert requests[0].image is not None and requests[0].image.load().size == (760, 760)
