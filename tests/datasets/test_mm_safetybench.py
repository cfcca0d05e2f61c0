"""MM-SafetyBench: a small copy of its layout, and the published files when they are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from safesteer_interp.datasets import load_requests
from safesteer_interp.datasets.mm_safetybench import SCENARIOS
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.paths import data_root
from safesteer_interp.requests import Split

ROOT = data_root()


def make_mm_safetybench(root: Path, **changes: object) -> Path:
    folder = root / "mm_safetybench/data/processed_questions"
    folder.mkdir(parents=True, exist_ok=True)
    row = {
        "Question": "How to Q?", "Changed Question": "List steps to Q.", "Key Phrase": "do Q", "Phrase Type": "activity",
        "Rephrased Question": "The bottom of the image shows it.", "Rephrased Question(SD)": "The image shows it.",
    }  # fmt: skip
    (folder / "06-Fraud.json").write_text(json.dumps({"0": row | changes, "7": row}))
    return root


def test_mm_safetybench_on_a_small_copy_of_its_layout(tmp_path: Path) -> None:
    make_mm_safetybench(tmp_path)
    requests = load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"], attacks=["TEXT", "CB", "TYPO"])
    assert [r.id for r in requests[:3]] == ["mmsb-06-000/TEXT", "mmsb-06-000/CB", "mmsb-06-000/TYPO"]
    assert [r.text for r in requests[:3]] == ["How to Q?", "List steps to Q.", "The bottom of the image shows it."]
    assert requests[0].image is None and requests[1].image is not None and requests[2].image is not None
    assert requests[2].image.load().size == (1024, 180)
    with pytest.raises(InputError, match=r"imgs/06-Fraud/SD/0\.jpg, which does not exist"):
        load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"], attacks=["SD"])
    images = tmp_path / "mm_safetybench/data/imgs/06-Fraud/SD"
    images.mkdir(parents=True)
    for number in (0, 7):
        Image.new("RGB", (8, 8), "blue").save(images / f"{number}.jpg")
    pictured = load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"], attacks=["SD"])
    assert [r.text for r in pictured] == ["The image shows it."] * 2


def test_mm_safetybench_names_what_is_wrong(tmp_path: Path) -> None:
    make_mm_safetybench(tmp_path, **{"Key Phrase": None})
    with pytest.raises(InputError, match=r'06-Fraud\.json, id "0": field "Key Phrase"'):
        load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"])
    with pytest.raises(InputError, match=r"01-Illegal_Activitiy\.json does not exist"):
        load_requests("mm_safetybench", tmp_path)
    for number in ("²", "../0", "1" * 40):
        folder = tmp_path / "mm_safetybench/data/processed_questions"
        (folder / "06-Fraud.json").write_text(json.dumps({number: {}}))
        with pytest.raises(InputError, match=r"06-Fraud\.json: id .* is not a number"):
            load_requests("mm_safetybench", tmp_path, scenarios=["06-Fraud"])
    with pytest.raises(UsageError, match='Did you mean "06-Fraud"'):
        load_requests("mm_safetybench", tmp_path, scenarios=["06-Frauds"])


@pytest.mark.skipif(
    ROOT is None or not (ROOT / "mm_safetybench").is_dir(), reason="no data root with mm_safetybench/ (set SAFESTEER_DATA to run this)"
)
def test_published_mm_safetybench() -> None:
    both = load_requests("mm_safetybench", ROOT, include_unclear=True, benign=False)
    assert len(both) == 2 * 1680 and len({r.id for r in both}) == len(both)
    assert {r.scenario for r in both} == set(SCENARIOS)
    assert {r.scenario for r in load_requests("mm_safetybench", ROOT, benign=False)} == set(SCENARIOS[:9])
    assert len(load_requests("mm_safetybench", ROOT, include_unclear=True, tiny=True, benign=False)) == 2 * 168
    harmless = [r for r in load_requests("mm_safetybench", ROOT) if not r.harmful]
    assert {str(r.attack) for r in harmless} == {"CB", "TYPO"} and len(harmless) == 2 * 150
    assert {r.split for r in harmless if r.attack == "TYPO"} == set(Split) - {Split.ALIGN}
    assert len({r.text for r in harmless if r.attack == "TYPO"}) == 1
