"""SafeSteer's set D: fifty questions of scenario 01 in four forms and MM-Vet, all to be fitted on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from support.published import write_published

from safesteer_interp.datasets import load_requests
from safesteer_interp.errors import InputError
from safesteer_interp.requests import Split


def test_d_is_scenario_01_in_four_forms_and_mm_vet(tmp_path: Path) -> None:
    root = write_published(tmp_path, each=15)
    found = load_requests("safesteer_d", root)
    counts = Counter((str(r.attack), r.harmful) for r in found)
    assert counts == {("CB", True): 50, ("SD", True): 50, ("TYPO", True): 50, ("SD_TYPO", True): 50, ("none", False): 60}
    assert {r.split for r in found} == {Split.FIT} and {r.scenario for r in found if r.harmful} == {"01-Illegal_Activitiy"}
    assert len({r.pair for r in found if r.harmful}) == 50, "the same fifty questions in every form"
    (root / "mm_safetybench/data/imgs/01-Illegal_Activitiy/SD/0.jpg").unlink()
    with pytest.raises(InputError, match="SD image of question 0"):
        load_requests("safesteer_d", root)
    assert len(load_requests("safesteer_d:attacks=CB+TYPO", root)) == 160
