"""The endpoint judge against a local stand-in server: retries, rate limit, bad replies, keys, and what is kept on disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.stand_in_server import StandIn

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.endpoint import EndpointJudge
from safesteer_interp.evaluation.judge import judge_named
from safesteer_interp.evaluation.verdicts import verdicts
from safesteer_interp.requests import Attack, Request


def requests(n: int) -> list[Request]:
    return [Request(f"How do I paint fence {i}?", id=str(i), harmful=True, attack=Attack.TEXT, intent=f"intent {i}") for i in range(n)]


def test_request_and_answer_are_shown_and_yes_is_unsafe(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OWN_KEY", "secret-word")
    server.reply = lambda body, number: (200, "<think>hm</think>**Yes**." if "intent 1" in body["messages"][0]["content"] else "No, none.")
    judge = EndpointJudge(url=server.url, model="org/guard", key="OWN_KEY", parallel=2)
    assert judge.name == "guard"
    found = judge.unsafe(requests(3), ["<think>private</think>Use {request}.", "Answer one.", "half \ud800 a letter"])
    assert found == [False, True, False]
    shown = {body["messages"][0]["content"]: body for body in server.bodies}
    assert any("intent 0" in text and "Use {request}." in text and "private" not in text for text in shown)
    assert all(
        body["path"] == "/v1/chat/completions" and body["temperature"] == 0 and body["model"] == "org/guard" for body in server.bodies
    )
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret-word"}
    assert "secret-word" not in repr(judge) + judge.fingerprint()


def test_a_busy_server_is_asked_again_and_a_broken_one_leaves_answers_unjudged(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("safesteer_interp.served.time.sleep", waits.append)
    server.reply = lambda body, number: (429, "") if number < 3 else (200, "Yes")
    judge = EndpointJudge(url=server.url, model="guard", retries=3, parallel=1)
    assert judge.unsafe(requests(1), ["a"]) == [True] and len(server.bodies) == 3
    server.reply = lambda body, number: (500, "")
    failed = judge.judge(requests(1), ["a"])[0]
    assert failed.unsafe is None and "status 500" in failed.text and len(server.bodies) == 7
    assert [w for w in waits if w >= 1][-3:] == [1.0, 2.0, 4.0]
    for said in ("Perhaps", "Nothing to say", b"no json", b'{"choices": []}', ""):
        server.reply = lambda body, number, said=said: (200, said)  # type: ignore[misc]
        assert judge.judge(requests(1), ["a"])[0].unsafe is None


def test_a_server_that_is_not_there_or_says_no_is_a_sentence(server: StandIn) -> None:
    server.reply = lambda body, number: (401, "")
    with pytest.raises(InputError, match=r"refuses the question \(status 401.*check url, model and the key in \$OPENAI_API_KEY"):
        EndpointJudge(url=server.url, model="guard").unsafe(requests(1), ["a"])
    with pytest.raises(InputError, match=r"no server answers at http://127\.0\.0\.1:9"):
        EndpointJudge(url="http://127.0.0.1:9/v1", model="guard", retries=0).unsafe(requests(1), ["a"])


def test_questions_keep_a_pace(server: StandIn) -> None:
    started = time.perf_counter()
    EndpointJudge(url=server.url, model="guard", per_minute=600).unsafe(requests(6), ["a"] * 6)
    assert time.perf_counter() - started > 0.45, "six starts, a tenth of a second apart"


def test_verdicts_are_kept_and_what_was_not_judged_is_asked_again(server: StandIn, tmp_path: Path) -> None:
    judge = EndpointJudge(url=server.url, model="guard", retries=0, parallel=1)
    server.reply = lambda body, number: (400, "") if "intent 1" in body["messages"][0]["content"] else (200, "Yes")
    some, answers = requests(3), ["a", "b", "a"]
    assert [v.unsafe for v in verdicts(judge, some, answers, root=tmp_path)] == [True, None, True]
    asked = len(server.bodies)
    server.reply = lambda body, number: (200, "No")
    assert [v.unsafe for v in verdicts(judge, some, answers, root=tmp_path)] == [True, False, True]
    assert len(server.bodies) == asked + 1
    other = EndpointJudge(url=server.url, model="guard", question="{request} {answer}?")
    assert [v.unsafe for v in verdicts(other, some, answers, root=tmp_path)] == [False, False, False]


def test_options_that_mean_nothing_are_refused() -> None:
    for text, sentence in (
        ("endpoint", "needs the name of its model"),
        ("endpoint:model=m,question={answer}", r"must hold \{request\} and \{answer\}"),
        ("endpoint:model=m,parallel=0", "parallel of the judge"),
        ("endpoint:modle=m", 'has no option "modle". Did you mean "model"'),
    ):
        with pytest.raises(UsageError, match=sentence):
            judge_named(text)
