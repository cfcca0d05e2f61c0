"""Progress goes to stderr, is one line where nobody watches, and counts what an earlier run has done."""

from __future__ import annotations

import pytest

from safesteer_interp.progress import progress_bar, track


def test_without_a_terminal_one_line_is_printed_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(3), "reading")) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "reading: 3/3 done\n")


def test_a_resumed_job_counts_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("tracing [mini]", 10, done=6) as advance:
        advance(3)
        advance()
    assert capsys.readouterr().err == "tracing [mini]: 10/10 done\n"


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("tracing tiny:llama", 1) as advance:  # ":llama:" is an emoji to rich
        advance()
    assert capsys.readouterr().err == "tracing tiny:llama: 1/1 done\n"


def test_disabled_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("quiet", 2, enabled=False) as advance:
        advance(2)
    assert list(track(iter("ab"), "quiet", enabled=False)) == ["a", "b"]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_with_an_eta(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    with progress_bar("tracing", 4) as advance:
        advance(4, description="storing")
    err = capsys.readouterr().err
    assert "storing" in err
    assert "4/4" in err
    assert "left" in err


def test_an_interrupted_job_reports_no_false_end(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with progress_bar("tracing", 4) as advance:
            advance(2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "done" not in capsys.readouterr().err
