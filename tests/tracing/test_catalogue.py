"""The catalogue: one file per trace, shared by processes, sound when files are damaged, and read with as few traces as can be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safesteer_interp.tracing.catalogue import Catalogue, StoredTrace, fewest
from safesteer_interp.tracing.demand import Demand

PROMPT = Demand("bundled", ("embed", "final_norm"), ("last_prompt",), edits=("push\0key\0embed",))


def stored(key: str, *contents: str) -> StoredTrace:
    return StoredTrace(key, PROMPT, contents, 1)


def test_what_one_process_lists_another_finds(tmp_path: Path) -> None:
    mine, theirs = Catalogue(tmp_path / "of a model"), Catalogue(tmp_path / "of a model")
    assert mine.traces() == []
    mine.add(stored("k2", "a", "b"))
    assert theirs.traces() == [stored("k2", "a", "b")]
    theirs.add(stored("k1", "c"))
    assert [trace.key for trace in mine.traces()] == ["k1", "k2"], "in the order of their keys, whoever came first"
    written = (tmp_path / "of a model" / "k2.json").stat().st_mtime_ns
    theirs.add(stored("k2", "a", "b"))
    assert (tmp_path / "of a model" / "k2.json").stat().st_mtime_ns == written
    mine.remove(stored("k1", "c"))
    assert [trace.key for trace in theirs.traces()] == ["k2"]


def test_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.add(stored("k1", "a"))
    for name, text in {"half": "[{", "other": "{}", "odd": '{"key": 1, "demand": {"sites": 3}, "contents": [], "n_shards": 1}'}.items():
        (tmp_path / f"{name}.json").write_text(text)
    assert Catalogue(tmp_path).traces() == [stored("k1", "a")]


FIELDS = sorted({*stored("k", "a").record(), *PROMPT.record()} - {"demand"})


@pytest.mark.parametrize(
    "change",
    [
        *({name: value} for name in FIELDS for value in ({}, [{}], None)),
        *({"key": 5}, {"edits": [3]}, {"reads": [[]]}, {"seed": "0"}, {"logits": 1}),
    ],
    ids=str,
)
def test_an_entry_with_a_field_of_another_kind_is_passed_over(change: dict[str, Any], tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.add(stored("k1", "a"))
    record = stored("k2", "b").record()
    (name,) = change
    (record if name in record else record["demand"]).update(change)
    (tmp_path / "k2.json").write_text(json.dumps(record))
    assert Catalogue(tmp_path).traces() == [stored("k1", "a")]


def test_few_traces_are_opened() -> None:
    small, large, other = stored("k1", "a", "b"), stored("k2", "b", "c", "d"), stored("k0", "d", "e")
    found = fewest([small, other, large], ["a", "b", "c", "d", "x"])
    assert found == {"a": small, "b": large, "c": large, "d": large}
    assert fewest([small, stored("k9", "a", "b")], ["a"])["a"] is small, "of equals the first key: the same every time"
    assert large.rows == {"b": 0, "c": 1, "d": 2}
