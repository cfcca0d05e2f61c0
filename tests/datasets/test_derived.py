"""A user's own rows without attack, split or pair: what is derived, and that it is said in one line with the fields that would help."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safesteer_interp.datasets import load_requests
from safesteer_interp.datasets.derived import derive
from safesteer_interp.requests import Attack, Request, Split

NOUNS = ["passport", "wallet", "camera", "letter", "ticket", "invoice", "boat", "fence", "phone", "diary", "kettle", "ladder"]


def rows(**more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"{noun}-{verb}", "text": f"How do I {verb} a {noun}?", "harmful": verb == "steal"} | more
        for noun in NOUNS
        for verb in ("steal", "renew")
    ]


def load(folder: Path, data: list[dict[str, Any]]) -> list[Request]:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, data)))
    return load_requests(path)


def test_plain_rows_get_a_form_and_a_split_and_one_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load(tmp_path, rows())
    assert {r.attack for r in found} == {Attack.TEXT}, "the harmless half is comparable with the harmful one"
    counts = Counter((str(r.split), r.harmful) for r in found)
    assert counts == {("fit", True): 6, ("fit", False): 6, ("validation", True): 2, ("validation", False): 2,
                      ("test", True): 4, ("test", False): 4}  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "mine.jsonl: the attack of 24 rows is taken from the form (TEXT 24); the split of 24 rows is drawn by hash (fit 12, "
        'test 8, validation 4); 24 rows without a pair: each is one by itself. To decide yourself, fill "attack", "split" and "pair".'
    )
    load(tmp_path, rows())
    assert capsys.readouterr().err == "", "said once"


def test_complete_rows_are_left_alone_and_nothing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = load(tmp_path, rows(attack="TEXT", split="validation", pair="p"))
    assert {(r.attack, r.split, r.pair) for r in found} == {(Attack.TEXT, Split.VALIDATION, "p")}
    assert capsys.readouterr().err == ""


def test_a_split_named_by_one_row_of_a_pair_is_its_pair_s(tmp_path: Path) -> None:
    first, second, other = rows()[:3]
    found = load(tmp_path, [first | {"pair": "p", "split": "validation"}, second | {"pair": "p"}, other])
    assert [r.split for r in found[:2]] == [Split.VALIDATION] * 2


def test_harmless_pictures_take_the_form_of_their_partner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    data = [
        {"id": "a", "text": "t", "harmful": True, "attack": "SD", "image": "p.png", "pair": "1"},
        {"id": "b", "text": "t", "harmful": True, "attack": "TYPO", "image": "p.png", "pair": "2"},
        {"id": "c", "text": "t", "harmful": False, "image": "p.png", "pair": "1"},
        {"id": "d", "text": "t", "harmful": False, "image": "p.png", "pair": "2"},
        {"id": "e", "text": "t", "harmful": False, "image": "p.png", "pair": "3"},
        {"id": "f", "text": "t", "harmful": False, "pair": "4"},
    ]
    found = {r.id: r.attack for r in load(tmp_path, data)}
    assert found == {"a": "SD", "b": "TYPO", "c": "SD", "d": "TYPO", "e": "none", "f": "TEXT"}
    assert "1 harmless row could be of several forms: attack none, which analyses of harm leave out" in capsys.readouterr().err


def test_a_file_of_harmless_rows_alone_is_no_half_of_a_comparison(tmp_path: Path) -> None:
    assert {r.attack for r in load(tmp_path, [row for row in rows() if not row["harmful"]])} == {Attack.NONE}


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.integers(0, 12), st.sampled_from(["", "a", "b"]), st.sampled_from([(), ("split",), ("attack", "pair")])
        ),
        min_size=1,
        max_size=60,
    )
)
def test_pairs_are_never_cut_and_the_order_of_rows_changes_nothing(data: list[tuple[bool, int, str, tuple[str, ...]]]) -> None:
    made = [
        Request(id=str(i), text="t", harmful=harmful, attack=Attack.TEXT, pair=f"p{pair}", scenario=scenario, split=Split.FIT)
        for i, (harmful, pair, scenario, _) in enumerate(data)
    ]
    given_fields = [frozenset(fields) for *_, fields in data]
    found = derive(made, given_fields).requests
    splits: dict[str, set[Split]] = {}
    for request in found:
        splits.setdefault(request.pair, set()).add(request.split)
    assert all(len(parts) == 1 for parts in splits.values())
    again = derive(made[::-1], given_fields[::-1]).requests[::-1]
    if len({r.scenario for r in made}) == 1:  # a pair of two scenarios counts with the first, so its order matters there
        assert [(r.split, r.attack) for r in found] == [(r.split, r.attack) for r in again]
