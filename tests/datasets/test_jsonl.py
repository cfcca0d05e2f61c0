"""Requests of one's own from a JSON lines file: every field, every fault by file, line and field, and any bytes at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safesteer_interp.datasets import load_jsonl, load_requests
from safesteer_interp.datasets.registry import load_sound
from safesteer_interp.errors import BadRequestError, InputError
from safesteer_interp.requests import Attack, Split

GOOD = {"id": "a", "text": "How can I renew a passport?", "harmful": False}


def write_lines(folder: Path, *rows: object) -> Path:
    path = folder / "mine.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_jsonl_reads_every_field(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    full = {
        "id": "b", "text": "Do it.", "harmful": True, "image": "red.png", "attack": "TYPO", "scenario": "06-Fraud", "pair": "p",
        "split": "train", "intent": "How can I do it?",
    }  # fmt: skip
    requests = load_requests(write_lines(tmp_path, GOOD, "", full))
    assert [r.id for r in requests] == ["a", "b"]
    plain, rich = requests
    assert (plain.attack, plain.pair, plain.split, plain.image, plain.dataset) == (Attack.TEXT, "a", Split.TEST, None, "mine")
    assert (rich.attack, rich.pair, rich.split, rich.scenario, rich.intent) == (
        Attack.TYPO, "p", Split.FIT, "06-Fraud", "How can I do it?",
    )  # fmt: skip
    assert rich.image is not None and rich.image.load().getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not valid JSON"),
        ("[1]", "line 2: expected a JSON object"),
        (GOOD | {"id": "x", "harmful": "no"}, 'line 2: field "harmful" must be true or false'),
        (GOOD | {"id": 7}, 'line 2: field "id" must be a non-empty text'),
        (GOOD | {"id": "x", "text": "  "}, 'line 2: field "text" must be a non-empty text'),
        ({"id": "x", "harmful": True}, 'line 2: field "text"'),
        (GOOD | {"id": "x", "attack": "TYPOS"}, 'line 2: field "attack" is \'TYPOS\'. Did you mean "TYPO"'),
        (GOOD | {"id": "x", "attack": ["TYPO"]}, 'line 2: field "attack"'),
        (GOOD | {"id": "x", "split": "dev"}, 'line 2: field "split"'),
        (GOOD | {"id": "x", "scenarios": "s"}, 'line 2: field "scenarios" is unknown. Did you mean "scenario"'),
        (GOOD | {"id": "x", "scenario": 3}, 'line 2: field "scenario" must be a text'),
        (GOOD, 'line 2: field "id" repeats "a" of line 1'),
        (GOOD | {"id": "x", "image": "none.png"}, 'line 2: field "image" names'),
        (GOOD | {"id": "x", "image": "../secret.png"}, "leaves the folder"),
        (GOOD | {"id": "x", "image": "/etc/passwd"}, "leaves the folder"),
        (GOOD | {"id": "x", "image": "a\0b"}, 'line 2: field "image" holds a NUL character'),
        (GOOD | {"id": "x", "image": "a" * 5000 + ".png"}, 'line 2: field "image" is "aaa'),
        (GOOD | {"id": "x", "image": "a/../b.png"}, "leaves the folder"),
        ('{"id": "x", "text": "t", "harmful": NaN}', 'line 2: field "harmful" must be true or false, not NaN'),
        ('{"id": "x", "text": "t", "harmful": -Infinity}', 'field "harmful" must be true or false, not -Infinity'),
        ('{"id": 1e999, "text": "t", "harmful": true}', 'line 2: field "id" must be a non-empty text, not 1e999'),
        (
            '{"id": ' + "9" * 5000 + ', "text": "t", "harmful": true}',
            'line 2: field "id" must be a non-empty text, not 999999999999… (5000',
        ),
        ('{"id": "x", "text": "t", "text": "u", "harmful": true}', 'line 2: field "text" is written twice'),
        ('{"id": "x", "text": ' + "[" * 100_000 + ', "harmful": true}', "line 2: its values are nested too deep"),
        (r'{"id": "x", "text": "bread \ud83d", "harmful": true}', 'line 2: field "text" holds half a surrogate pair (U+D83D'),
        (r'{"id": "x\ud83d", "text": "bread", "harmful": true}', 'line 2: field "id" holds half a surrogate pair'),
        (r'{"id": "x", "text": "t", "harmful": true, "pair": "\udc00"}', 'line 2: field "pair" holds half a surrogate pair (U+DC00'),
        (r'{"id": "x", "text": "a\u0000b", "harmful": true}', 'line 2: field "text" holds a NUL character'),
        (r'{"id": "x", "text": "t", "harmful": true, "split\udc00": 1}', 'line 2: field "split\\udc00" is unknown'),
        (GOOD | {"id": "x", "image": "link.png"}, "leaves the folder"),
        (GOOD | {"id": "x", "attack": "SD"}, 'line 2: field "attack" is SD, which needs a picture; name it in "image"'),
        (GOOD | {"id": "x", "attack": "CB", "image": ""}, 'line 2: field "attack" is CB, which needs a picture'),
        (GOOD | {"id": "x", "attack": "TEXT", "image": "p.png"}, 'line 2: field "attack" is TEXT, but there is an "image"; remove it'),
    ],
)
def test_jsonl_malformed_lines_name_file_line_and_field(tmp_path: Path, line: object, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    path = write_lines(folder, GOOD, line)
    with pytest.raises(InputError) as caught:
        load_jsonl(path)
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_jsonl_missing_empty_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="holds no request"):
        load_jsonl(write_lines(tmp_path, ""))
    line = (json.dumps(GOOD) + "\n").encode()
    for data, message in (
        (b"\xff\xfe\x00", "is in UTF-16; save it as UTF-8"),
        (json.dumps(GOOD).encode("utf-16-le"), "is in UTF-16; save it as UTF-8"),
        (line + b"\n\xff", "line 3: byte 0xff is not UTF-8"),
    ):
        (tmp_path / "b.jsonl").write_bytes(data)
        with pytest.raises(InputError, match=message):
            load_jsonl(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        load_jsonl(tmp_path)
    (tmp_path / "b.jsonl").write_bytes(b"\xef\xbb\xbf" + line.replace(b"\n", b"\r\n") + b" \r\n")
    assert [r.id for r in load_jsonl(tmp_path / "b.jsonl")] == ["a"], "a byte order mark and CRLF are fine"


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c", "\x1e"])
def test_jsonl_lines_end_with_lf_alone(tmp_path: Path, char: str) -> None:
    text = f"How do I bake bread?{char}Please list the steps."
    row = json.dumps(GOOD | {"text": text}, ensure_ascii=False)
    written = row if char >= "\x80" else json.dumps(GOOD | {"text": text})
    assert [r.text for r in load_jsonl(write_lines(tmp_path, written, GOOD | {"id": "b"}))] == [text, GOOD["text"]]


sound = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(lambda t: t.strip())


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"id": sound, "text": sound, "harmful": st.booleans()},
            optional={"scenario": sound, "pair": sound, "intent": sound, "attack": st.sampled_from(["TEXT", "none"])},
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row["id"],
    ),
    escaped=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_jsonl_round_trip_of_any_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], escaped: bool, ending: str
) -> None:
    path = tmp_path_factory.mktemp("round") / "mine.jsonl"
    path.write_bytes(ending.join(json.dumps(row, ensure_ascii=escaped) for row in rows).encode())
    found = load_jsonl(path)
    for row, request in zip(rows, found, strict=True):
        assert (request.id, request.text, request.harmful) == (row["id"], row["text"], row["harmful"])
        assert request.scenario == row.get("scenario", "") and request.pair == row.get("pair", row["id"])
        assert request.intent == row.get("intent", row["text"]) and row.get("attack", request.attack) == request.attack


junk = st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda t: t.encode("utf-8", "surrogatepass")))


@given(lines=st.lists(junk, max_size=6))
def test_jsonl_of_any_bytes_is_read_or_refused_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("junk") / "mine.jsonl"
    path.write_bytes(b"\n".join([json.dumps(GOOD).encode(), *lines]))
    bad: list[BadRequestError] = []
    try:
        found = load_jsonl(path, bad=bad)
    except InputError as refusal:
        said = str(refusal)
    else:
        said = str(path)
        assert found[0].id == "a" and all(f"{path}, line " in str(error) for error in bad)
    assert str(path) in said


def test_a_pair_lies_in_one_split(tmp_path: Path) -> None:
    rows = [GOOD | {"id": name, "pair": "p", **more} for name, more in (("a", {"split": "fit"}), ("b", {}), ("c", {"split": "train"}))]
    assert {r.split for r in load_jsonl(write_lines(tmp_path, *rows))} == {Split.FIT}, "train is fit, and who says nothing follows"
    bad: list[BadRequestError] = []
    path = write_lines(tmp_path, *rows, GOOD | {"id": "d", "pair": "p", "split": "test"})
    assert [r.id for r in load_jsonl(path, bad=bad)] == ["a", "b", "c"]
    assert 'line 4: field "split" is test, but line 1 of the same pair "p" is fit; give all rows of a pair one split' in str(bad[0])


@pytest.mark.parametrize(("written", "attack"), [("NONE", Attack.NONE), ("none", Attack.NONE), ("text", Attack.TEXT)])
def test_attacks_are_read_in_either_case(tmp_path: Path, written: str, attack: Attack) -> None:
    assert load_jsonl(write_lines(tmp_path, GOOD | {"attack": written}))[0].attack is attack


def test_bad_rows_are_named_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    rows = [GOOD, "{", GOOD | {"id": "no", "harmful": "?"}, GOOD | {"id": "cut", "image": "cut.png"}, GOOD | {"id": "z"}]
    path = write_lines(tmp_path, *rows)
    bad: list[BadRequestError] = []
    assert [r.id for r in load_requests(path, bad=bad)] == ["a", "cut", "z"]
    assert [error.request_id for error in bad] == ["line 2", "no"] and f"{path}, line 3" in str(bad[1])
    good, bad = load_sound(path)
    assert [r.id for r in good] == ["a", "z"] and [error.request_id for error in bad] == ["line 2", "no", "cut"]
    assert 'request "cut"' in str(bad[2]) and "cut.png" in str(bad[2])
    with pytest.raises(InputError, match=r"holds no request that can be used.* The first: .*line 1"):
        load_sound(write_lines(tmp_path, "{", "["))
    with pytest.raises(BadRequestError, match=r"cut\.png"):
        load_sound(write_lines(tmp_path, GOOD | {"id": "cut", "image": "cut.png"}))
