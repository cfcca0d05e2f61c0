"""`safesteer chat`: one request, piped lines, what --explain and --json print, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Attack, select

HARMFUL = select(planted_requests(4, attacks=(Attack.CB,)), harmful=True)[0].text
COMMON = ("chat", "--model", "planted", "--max-new-tokens", "8")


def test_one_request_is_explained(
    safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = planted_requests(40, attacks=(Attack.CB, Attack.SD))
    monkeypatch.setattr("safesteer_interp.cli.chat.choose_requests", lambda name, data_root: few)
    code, out, err = safesteer(*COMMON, "--prompt", HARMFUL, "--explain", "--choice-temperature", "0")
    assert code == 0, err
    assert "verdict: score" in out and "candidate" in out and "'sorry'" in out and out.strip().splitlines()[-1].startswith("sorry")
    assert "sign test: refusal tokens score" in err and "|mu|" in err
    assert 'fitting SafeSteer on 80 requests of "planted"' in err, "16 of the 20 training pairs and the 4 held-out ones"
    assert any((fresh_cache / "traces").iterdir()), "the training trace is kept for the next time"


def test_lines_are_answered_one_by_one_as_json(
    safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = tmp_path / "red.png"
    picture = select(planted_requests(4, attacks=(Attack.SD,)), harmful=True)[0].image
    assert picture is not None
    picture.load().save(image)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{HARMFUL}\n\nwhat should i do with the thing\n"))
    code, out, err = safesteer(*COMMON, "--defense", "none", "--image", str(image), "--json")
    assert code == 0, err
    decoder, found, rest = json.JSONDecoder(), [], out.strip()
    while rest:
        record, end = decoder.raw_decode(rest)
        found.append(record)
        rest = rest[end:].strip()
    assert [record["prompt"] for record in found] == [HARMFUL, "what should i do with the thing"]
    assert all(record["text"] and record["steps"] == [] for record in found)


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("--defense", "safester"), 2, 'Did you mean "safesteer"'),
        (("--image", "nowhere.png"), 3, "image nowhere.png does not exist"),
        (("--k", "0"), 2, "K is 0"),
        (("--steps", "9"), 2, "steps is 9 but at most 8 tokens"),
        (("--temperature", "-1"), 2, "--temperature -1"),
        (("--training-pairs", "-1"), 2, "--training-pairs -1"),
        (("--fitted", "nowhere"), 3, "give the folder that SafeSteer.save wrote"),
        (("--fit", "promt"), 2, '"promt" is not a fit'),
    ],
)
def test_what_cannot_work_is_one_sentence(
    flags: tuple[str, ...], code: int, sentence: str, safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path
) -> None:
    got, _, err = safesteer(*COMMON, "--prompt", "how do i paint the fence", *flags)
    assert got == code and sentence in err and "Traceback" not in err


def test_defenses_are_listed(safesteer: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = safesteer("list", "defenses", "--json")
    assert code == 0 and {row["name"] for row in json.loads(out)} >= {"none", "safesteer", "ecso", "coca"}
    assert all(row["what"] for row in json.loads(out))
