"""What is stamped under a figure comes from the records of its result."""

from __future__ import annotations

from typing import Any

import pytest
from support.results import claim

from safesteer_interp.report.stamps import stamp_of

RECORD = {"model": {"name": "mini", "known_answer": False}, "data": {"name": "bundled"}, "profile": "quick"}


def of(clusters: int | None, unit: str = "pairs", kind: str = "auroc") -> dict[str, Any]:
    return claim(estimate={**claim()["estimate"], "clusters": clusters, "kind": kind}, clusters=unit)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([of(24), of(104)], "mini · bundled · n = 24 to 104 pairs · profile quick"),
        ([of(32), of(32)], "mini · bundled · n = 32 pairs · profile quick"),
        ([of(32), of(5, "random starts")], "mini · bundled · n = 32 pairs · profile quick"),
        ([of(32), of(200, kind="spread")], "mini · bundled · n = 32 pairs · profile quick"),
        ([of(None)], "mini · bundled · profile quick"),
    ],
)
def test_n_counts_pairs_and_nothing_else(claims: list[dict[str, Any]], words: str) -> None:
    assert stamp_of(RECORD, claims) == words


def test_a_fixture_is_called_one() -> None:
    assert stamp_of({**RECORD, "model": {"name": "planted", "known_answer": True}}, []).startswith("planted (known-answer fixture) · ")
