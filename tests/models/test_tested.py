"""Each family says how it was tested, under the versions that are pinned; what does not fit the contract says why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from safesteer_interp.errors import InputError
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.families.layouts import OTHERWISE, layout_for
from safesteer_interp.models.families.tested import how_tested, real_processors


def test_every_family_is_listed_with_what_it_was_tested_with(safesteer: Callable[..., tuple[int, str, str]], root: Path) -> None:
    assert set(real_processors()) <= set(FAMILIES) and {"llava", "qwen2_5_vl", "qwen3_vl", "idefics3", "gemma3", "paligemma"} <= set(
        real_processors()
    )
    code, out, _ = safesteer("list", "models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    pinned = dict(re.findall(r"^(transformers|torch)==(\S+)$", (root / "constraints.txt").read_text(), re.MULTILINE))
    for family in FAMILIES:
        line = rows[f"tiny:{family}"]["tested"]
        assert line == how_tested(family) and line.startswith("tested with: ")
        if family in real_processors():
            versions = f"transformers {pinned['transformers']}, torch {pinned['torch']}"
            assert versions in line, "pinned anew since: run tests/models/test_real_processors.py with SAFESTEER_RECORD=1"
    assert "llava-hf/llava-1.5-7b-hf" in rows["tiny:llava"]["tested"]


@pytest.mark.parametrize("kind", OTHERWISE)
def test_what_does_not_fit_is_refused_with_the_reason(kind: str) -> None:
    with pytest.raises(InputError, match=f'"{kind}" is not supported: .{{30}}'):
        layout_for(SimpleNamespace(model_type=kind))
