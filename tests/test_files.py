"""One "tensors + record": what is written is read back to the bit, and missing, damaged, changed and foreign files are named."""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from safesteer_interp import files
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import (
    digest,
    read_json,
    read_tensors,
    safe_name,
    tensor_path,
    write_bytes,
    write_json,
    write_tensors,
    write_text,
)

TENSORS = {
    "a": np.arange(6, dtype=np.float64).reshape(2, 3).T / 7,
    "b": np.array([3], dtype=np.int64),
    "none": np.zeros((0, 4), np.float32),
}
RECORD = {"name": "Größe", "n": 3, "nan": math.nan, "parts": [1, None, {"x": True}]}


def test_tensors_and_record_come_back_to_the_bit(tmp_path: Path) -> None:
    path = write_tensors(tmp_path / "new" / "resid_post.12", TENSORS, RECORD, kind="thing/1")
    assert [p.name for p in path.parent.iterdir()] == ["resid_post.12.safetensors"]
    tensors, record = read_tensors(tmp_path / "new" / "resid_post.12", "thing/1")
    assert tensors.keys() == TENSORS.keys()
    for name, x in TENSORS.items():
        assert tensors[name].dtype == x.dtype
        np.testing.assert_array_equal(tensors[name], x)
    assert math.isnan(record.pop("nan")) and record == {"name": "Größe", "n": 3, "parts": [1, None, {"x": True}]}
    assert write_tensors(path, TENSORS, RECORD, kind="thing/1").read_bytes() == path.read_bytes(), "the same thing is the same file"


def test_one_file_has_one_name() -> None:
    assert {str(tensor_path(name)) for name in ("v.1", "v.1.safetensors", Path("v.1.json"))} == {"v.1.safetensors"}


def test_missing_damaged_changed_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors does not exist"):
        read_tensors(tmp_path / "none", "thing/1")
    path = write_tensors(tmp_path / "x", TENSORS, RECORD, kind="thing/1")
    with pytest.raises(InputError, match=r'x\.safetensors holds "thing/1", expected "thing/2"'):
        read_tensors(path, "thing/2")
    whole = path.read_bytes()
    for place in (-1, whole.index(b'\\"n\\"') + 6):  # a number of a tensor, and one of the record
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(InputError, match="does not match the hash"):
            read_tensors(path, "thing/1")
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        read_tensors(path, "thing/1")
    save_file(load_file(write_tensors(path, TENSORS, RECORD, kind="thing/1")), path)
    with pytest.raises(InputError, match=r'holds "unknown", expected "thing/1"; it was not written by this suite'):
        read_tensors(path, "thing/1")
    path.with_suffix(".json").write_text('["no record"]')
    with pytest.raises(InputError, match='holds "unknown"'):
        read_tensors(path, "thing/1")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_tensors(tmp_path / "folder", "thing/1")


def test_the_hash_of_a_record_follows_its_content_and_refuses_what_json_cannot_hold() -> None:
    assert digest({"a": 1, "b": ["é", None]}) == digest({"b": ["é", None], "a": 1})
    assert len({digest(x) for x in ({"a": 1}, {"a": 1.0}, {"a": "1"}, {"a": [1]}, {"a": True}, {"b": 1})}) == 6
    for value in (object(), np.arange(3), Path("x"), {1, 2}, b"x"):
        with pytest.raises(UsageError, match=f"{type(value).__name__} objects cannot be part of a key as they are"):
            digest({"a": value})


FAILING = ("tempfile.mkstemp", "os.fdopen", "os.fsync", "pathlib.Path.chmod", "pathlib.Path.replace")
"""Every call a write makes that a disk can refuse."""


@given(
    before=st.none() | st.binary(max_size=40),
    after=st.binary(max_size=40),
    failing=st.none() | st.sampled_from(FAILING),
    number=st.sampled_from((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES, errno.EROFS)),
    name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=30).map(safe_name),
)
def test_a_write_is_whole_or_not_at_all(before: bytes | None, after: bytes, failing: str | None, number: int, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if before is not None:
            path.write_bytes(before)
        refusal = mock.patch(failing, side_effect=OSError(number, "the disk says no")) if failing else nullcontext()
        with refusal, pytest.raises(InputError, match=r"written|space") if failing else nullcontext():
            write_bytes(path, after)
        expected = before if failing else after
        assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == ({} if expected is None else {name: expected})


@given(st.text(st.characters(exclude_categories=()), max_size=30))
def test_any_text_can_be_written_and_json_comes_back(text: str) -> None:
    """Models write half of a surrogate pair; UTF-8 has no form for it, JSON has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        write_text(path, text)
        assert path.read_bytes().decode().encode("utf-8", "surrogatepass") == text.encode("utf-8", "backslashreplace")
        write_json(path, {"text": text})
        back = read_json(path)["text"]
        assert back == text or back.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")  # two halves met


def test_what_a_killed_process_left_goes_and_what_lives_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead = tmp_path / f".a.html.{files._HOST}-{ended.pid}.x1.tmp"
    kept = [
        tmp_path / f".a.html.{files._HOST}-{os.getpid()}.x2.tmp",  # at work
        tmp_path / f".a.html.0badcafe-{ended.pid}.x3.tmp",  # of another machine
        tmp_path / f".b.html.{files._HOST}-{ended.pid}.x4.tmp",  # of another file
        tmp_path / ".a.html.notes.tmp",  # the user's
    ]
    for path in (dead, *kept):
        path.touch()
    write_text(tmp_path / "a.html", "done")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*(p.name for p in kept), "a.html"])
