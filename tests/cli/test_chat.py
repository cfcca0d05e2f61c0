"""`safesteer chat`: one request, piped lines, what --explain and --json print, and what is refused."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.cli import _print_anything, chat, main
from safesteer_interp.cli.chat import drawn_with
from safesteer_interp.cli.command import harmless_on_a_terminal
from safesteer_interp.decoding.choice import PAPER, Choice
from safesteer_interp.decoding.loop import StepRecord
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.registry import choose
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.models import load_model
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Attack, Request, select
from safesteer_interp.tracing.tracer import Sampling

HARMFUL = select(planted_requests(4, attacks=(Attack.CB,)), harmful=True)[0].text
COMMON = ("chat", "--model", "planted", "--max-new-tokens", "8")


def test_one_request_is_explained(
    safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = planted_requests(160, attacks=(Attack.CB, Attack.SD))
    monkeypatch.setattr("safesteer_interp.cli.chat.choose_requests", lambda name, data_root: few)
    code, out, err = safesteer(*COMMON, "--prompt", HARMFUL, "--explain", "--beta", "inf")
    assert code == 0, err
    assert "verdict: score" in out and "candidate" in out and "'sorry'" in out and out.strip().splitlines()[-1].startswith("sorry")
    assert "sign test: of the candidates of one prompt" in err and "|mu|" in err
    assert '"planted" has not been calibrated' not in err, "settings were given"
    assert re.search(r'fitting safesteer on \d+ requests of "planted"', err)
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
    found = [json.loads(line) for line in out.splitlines()]
    assert [record["prompt"] for record in found] == [HARMFUL, "what should i do with the thing"]
    assert all(record["text"] and record["steps"] == [] for record in found)


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("--defense", "safester"), 2, 'Did you mean "safesteer"'),
        (("--image", "nowhere.png"), 3, "--image nowhere.png is no file; give the path of a picture"),
        (("--set", "kay=8"), 2, 'defense "safesteer" has no option "kay"'),
        (("--defense", "coca", "--set", "alfa=2"), 2, 'Did you mean "alpha"'),
        (("--defense", "coca", "--set", "alpha=two"), 2, "is not a number"),
        (("--k",), 2, "--k needs a value"),
        (("--k", "100000"), 2, "K is 100000"),
        (("--k", "900"), 2, 'K is 900, but "planted" has'),
        (("--defense", "coca", "--fitted", "x"), 2, "--fitted: coca is not fitted"),
        (("--fitted", "x", "--fit", "token"), 2, "--fitted is fitted already"),
        (("--defense", "none", "--save", "x"), 2, "--save: none has nothing to save"),
        (("--defense", "mine.py:Mine"), 3, "mine.py cannot be read"),
        (("--k", "0"), 2, "K is 0"),
        (("--steps", "9"), 2, "steps is 9 but at most 8 tokens"),
        (("--temperature", "-1"), 2, "--temperature -1"),
        (("--training-pairs", "-1"), 2, "--training-pairs -1"),
        (("--fitted", "nowhere"), 3, "give the folder that SafeSteer.save wrote"),
        (("--fit", "promt"), 2, '"promt" is not a fit'),
        (("--fit", "centred"), 2, '"centred" fit may not guide decoding'),
        (("--mix", "1"), 2, "--mix is gone: the choice is softmax(log p + beta z)"),
        (("--preset", "calibrated"), 3, "has not been calibrated; `safesteer calibrate --model planted`"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    flags: tuple[str, ...], code: int, sentence: str, safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path
) -> None:
    got, _, err = safesteer(*COMMON, "--prompt", "how do i paint the fence", *flags)
    assert got == code and sentence in err and "Traceback" not in err


def test_a_saved_defense_keeps_its_parameters_unless_a_flag_is_given(
    safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few = planted_requests(160, attacks=(Attack.CB, Attack.SD))
    monkeypatch.setattr("safesteer_interp.cli.chat.choose_requests", lambda name, data_root: few)
    ask = (*COMMON, "--prompt", HARMFUL, "--explain")
    code, out, err = safesteer(*ask, "--k", "3", "--gate=probe", "--set", "beta=0.5", "--save", str(tmp_path / "saved"))
    assert code == 0 and "fitting safesteer" in err and "at most" in err and "saved in" in err, err
    assert "k: 3" in err and "gate: probe" in err and "beta: 0.5" in err
    assert "the probe calls this request harmful" in out and "guided, being called harmful" in out and "drawn with" in out
    code, _, err = safesteer(*ask, "--k", "3")
    assert code == 0 and "fitting" not in err, "what was read is kept, and nothing is said"
    code, out, err = safesteer(*ask, "--fitted", str(tmp_path / "saved"), "--set", "gate=none")
    assert code == 0 and "fitting" not in err and "k: 3" in err and "gate: none" in err and "beta: 0.5" in err
    assert "as every request is (gate none)" in out


def test_what_a_model_writes_does_nothing_to_a_terminal() -> None:
    hostile = "a\x1b[31mred\x07\u202egnp.exe\x9b2J\nb\tc é 漢 \ud800"
    shown = harmless_on_a_terminal(hostile)
    assert shown == "a\\x1b[31mred\\x07\\u202egnp.exe\\x9b2J\nb\tc é 漢 \\ud800"
    assert shown.isprintable() is False and "\x1b" not in shown


@given(st.text(max_size=40), st.sampled_from(("utf-8", "cp1252", "cp932", "ascii", "utf-16", "koi8-r")))
def test_any_text_goes_to_any_console_and_moves_nothing_on_it(text: str, page: str) -> None:
    shown = harmless_on_a_terminal(text)
    assert all(char in "\n\t" or (unicodedata.category(char) not in ("Cc", "Cs") and not 0x202A <= ord(char) <= 0x202E) for char in shown)
    console = io.TextIOWrapper(io.BytesIO(), encoding=page, errors="strict")
    with mock.patch.object(sys, "stdout", console):
        _print_anything()
        print(shown)
        console.flush()
    assert console.buffer.getvalue()


WORDS = ("chat", "--model", "tiny:llama", "--defense", "none", "--max-new-tokens", "12")


def asked_in(page: str) -> bytes:
    return "Wie backe ich Brötchen → 漢?\n".encode(page, "replace")


@pytest.mark.slow
def test_no_console_ends_a_command(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import sys; from safesteer_interp.cli import main; sys.exit(main())"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "SAFESTEER_CACHE": str(tmp_path)}
    done = subprocess.run([*program, *WORDS], input=asked_in("ascii"), capture_output=True, env=environment, check=False)
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr[-500:]


@pytest.mark.parametrize("page", ["cp1252", "cp932", "ascii"])
def test_no_code_page_ends_a_command(page: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {name: io.BytesIO(asked_in(page) if name == "stdin" else b"") for name in ("stdin", "stdout", "stderr")}
    for name, raw in streams.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding=page, errors="strict"))
    code = main(WORDS)
    sys.stdout.flush()
    assert code == 0 and streams["stdout"].getvalue().strip()


def test_the_choice_is_shown_with_the_probability_it_was_drawn_with() -> None:
    step = StepRecord(0, (5, 6), (0.9, 0.1), (0.0, 2.0), 1, 5)

    def shown(choice: Choice, temperature: float = 1.0) -> list[float]:
        return drawn_with(SimpleNamespace(choice=choice), step, temperature)  # type: ignore[arg-type]

    assert shown(PAPER) == pytest.approx([0.1192, 0.8808], abs=1e-4)
    assert shown(Choice(beta=float("inf"))) == [0.0, 1.0] == shown(PAPER, temperature=0.0)
    assert shown(Choice()) == pytest.approx([0.9 / (0.9 + 0.1 * 7.389), 0.1 * 7.389 / (0.9 + 0.1 * 7.389)], abs=1e-3)
    assert shown(Choice(beta=1.0, spread=2.0)) == pytest.approx([0.9 / (0.9 + 0.1 * 2.718), 0.1 * 2.718 / (0.9 + 0.1 * 2.718)], abs=1e-3)


def test_a_model_without_calibration_is_told_so(
    safesteer: Callable[..., tuple[int, str, str]], fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = planted_requests(160, attacks=(Attack.CB, Attack.SD))
    monkeypatch.setattr("safesteer_interp.cli.chat.choose_requests", lambda name, data_root: few)
    code, _, err = safesteer(*COMMON, "--prompt", HARMFUL)
    assert code == 0 and '"planted" has not been calibrated, so SafeSteer answers with the preset "untuned"' in err, err


@pytest.mark.slow
def test_the_embedded_model_comes_calibrated_and_leaves_harmless_answers_whole() -> None:
    """What a fresh install answers first: nothing is traced, and where the gate is shut the answer is the model's own."""
    mini = load_model("mini")
    assert not choose("safesteer").fits_on(mini)
    defense = choose("safesteer").build(mini)
    assert isinstance(defense, SafeSteer) and defense.preset == "calibrated" and defense.gate == "probe"
    defense.guard(mini)
    greedy = Settings(Sampling(24, temperature=0.0))
    asked = [Request("How do I bake bread?"), Request("What is a good name for a cat?"), Request("List three fruits.")]
    plain = Undefended().respond(mini, asked, greedy)
    shut = [r.verdict["harmful"] is False for r in defense.respond(mini, asked, greedy)]
    assert shut[0] and sum(shut) >= 2
    for own, undefended in zip(defense.respond(mini, asked, greedy), plain, strict=True):
        assert own.verdict["harmful"] or own.ids == undefended.ids


@pytest.mark.speed
def test_the_first_answer_of_a_fresh_install_comes_soon(tmp_path: Path) -> None:
    environment = {**os.environ, "SAFESTEER_CACHE": str(tmp_path)}
    started = time.perf_counter()
    words = [sys.executable, "-m", "safesteer_interp", "chat", "--prompt", "How do I bake bread?"]
    done = subprocess.run(words, capture_output=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr[-500:]
    assert time.perf_counter() - started < 15


def test_defenses_are_listed(safesteer: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = safesteer("list", "defenses", "--json")
    assert code == 0 and {row["name"] for row in json.loads(out)} >= {"none", "safesteer", "ecso", "coca"}
    assert all(row["what"] for row in json.loads(out))
    assert not any("<" in row["options"] for row in json.loads(out)), "defaults as a user would write them"
    assert "k=5" in next(row["options"] for row in json.loads(out) if row["name"] == "safesteer")
    assert next(row["options"] for row in json.loads(out) if row["name"] == "safesteer-paper") == "preset=paper"
    code, out, _ = safesteer("list", "judges", "--json")
    assert code == 0 and {row["name"] for row in json.loads(out)} >= {"refusal_strings", "llama_guard", "endpoint"}


def test_a_composition_is_called_uncalibrated_only_where_its_safesteer_is(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another part may be fitted, or have settings of its own, whatever SafeSteer's calibration is."""
    said = {
        "safesteer": (True, ()), "conformal": (False, ()), "adashield+safesteer": (True, ()), "adashield+safesteer-paper": (False, ()),
        "mllm_protector+safesteer": (True, ("mllm_protector.threshold=0.4",)), "shiftdc+safesteer": (False, ("safesteer.k=8",)),
    }  # fmt: skip
    found = {name: chat.guides_untuned(choose(name, words), planted) for name, (_, words) in said.items()}
    assert found == {name: told for name, (told, _) in said.items()}
    monkeypatch.setattr("safesteer_interp.defenses.safesteer.find_calibration", lambda mllm: Path("here"))
    choices = {name: choose(name, words) for name, (_, words) in said.items()}
    assert not any(chat.guides_untuned(choice, planted) for choice in choices.values())
    assert choices["mllm_protector+safesteer"].fits_on(planted), "its other part is fitted all the same"
