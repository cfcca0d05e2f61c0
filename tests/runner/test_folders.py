"""Two sources never share a result folder, and nothing but what the suite wrote is ever removed from one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.files import files_of, safe_name
from safesteer_interp.runner.folders import data_label, folder_name, model_label, remove_stale, thinking_label, written_files


def test_named_sources_are_called_by_their_names() -> None:
    assert folder_name("mini") == "mini"
    assert folder_name("mini", "planted") == "mini@planted"
    assert folder_name("planted", "planted", usual="planted") == "planted"
    assert folder_name("Qwen/Qwen2.5-VL-3B-Instruct", "figstep") == "Qwen--Qwen2.5-VL-3B-Instruct@figstep"
    assert folder_name("tiny:llava") == "tiny-llava"
    assert folder_name("mini:grounded") == "mini-grounded"


def test_models_of_one_name_have_labels_of_their_own(tmp_path: Path) -> None:
    labels = {model_label("checkpoint-500", str(tmp_path / side / "checkpoint-500"), "f" * 64) for side in ("a", "b")}
    labels |= {model_label("checkpoint-500", "memory", digit * 64) for digit in "01"}
    labels |= {model_label("org/checkpoint-500", f"hub org/checkpoint-500, revision {name}", "f" * 64) for name in ("main", "v2")}
    assert len(labels) == 6 and "org/checkpoint-500" in labels
    assert model_label("mini", str(tmp_path / "mini-reading-0123"), "f" * 64) == "mini", "a name that is not the folder's is enough"


def test_a_switch_for_thinking_is_told_where_it_was_set() -> None:
    assert [thinking_label(switch) for switch in (None, True, False)] == ["", "-thinking-on", "-thinking-off"]


def test_data_files_of_one_name_have_labels_of_their_own(tmp_path: Path) -> None:
    one, other = (data_label(str(tmp_path / side / "mine.jsonl")) for side in ("a", "b"))
    assert one != other and one.startswith("mine-") and other.startswith("mine-")
    assert data_label(str(tmp_path / "a" / ".." / "a" / "mine.jsonl")) == one
    assert data_label("../../etc/figstep") == safe_name("../../etc/figstep")


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_names_have_different_folders_that_every_file_system_takes(one: str, other: str) -> None:
    for name in (safe_name(one), safe_name(other)):
        assert name and len(name) < 140 and set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._,=-")
        assert name not in (".", "..")
    same = one.replace("/", "--").replace(":", "-") == other.replace("/", "--").replace(":", "-")
    assert same or safe_name(one) != safe_name(other)


def test_chinese_names_are_told_apart() -> None:
    assert folder_name("模型甲") != folder_name("模型乙")


def test_only_recorded_files_are_removed(tmp_path: Path) -> None:
    for name in ("figure.svg", "notes.md", "table.csv", "claims.json"):
        (tmp_path / name).write_text("x")
    outside = tmp_path.parent / "outside.svg"
    outside.write_text("x")
    (tmp_path / "provenance.json").write_text(json.dumps({"tables": {"table": 3}, "files": ["figure.svg", "table.csv", "../outside.svg"]}))
    assert written_files(tmp_path) == {"figure.svg", "table.csv", "../outside.svg"}
    remove_stale(tmp_path, written_files(tmp_path), ["table.csv"])
    assert {p.name for p in tmp_path.iterdir()} == {"notes.md", "table.csv", "claims.json", "provenance.json"}
    assert outside.exists(), "a record that names a file elsewhere is not obeyed"


@pytest.mark.parametrize(("record", "expected"), [({"tables": {"a": 1}}, {"a.csv", "a.tex", "a.md"}), ({}, set())])
def test_an_older_record_names_its_tables_only(record: dict[str, object], expected: set[str]) -> None:
    assert written_files(Path("nowhere"), record) == expected


def test_a_folder_without_a_record_is_all_the_users(tmp_path: Path) -> None:
    assert written_files(tmp_path) == set()
    (tmp_path / "provenance.json").write_text("{")
    assert written_files(tmp_path) == set()
    assert not files_of(tmp_path, {"absent.csv": "0"})
