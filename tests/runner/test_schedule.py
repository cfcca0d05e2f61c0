"""What a run says is left: what it knows from earlier runs, and how many analyses it knows nothing of."""

from __future__ import annotations

from pathlib import Path

import pytest

from safesteer_interp.runner import schedule
from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.schedule import Job, TimeLeft
from safesteer_interp.runner.session import Session, Settings

FIVE = ("probe_training", "alignment_vector", "defense_ablation", "guidance_budget", "case_study")


def test_known_times_are_summed_and_unknown_ones_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = dict(zip(FIVE, (5.0, 12.0, 500.0), strict=False))
    monkeypatch.setattr(schedule, "seconds_taken", lambda analysis, place: taken.get(analysis))
    session, known = Session(Settings()), discover()
    jobs = [Job(session, known[name], None, Path(name), "mini") for name in FIVE]
    guess = TimeLeft(jobs)
    assert guess.left(jobs[1:3], jobs) == "; 2 to go took 9 min the last time"
    assert guess.left(jobs[1:2], jobs) == "; 1 to go took 12 s the last time"
    assert guess.left(jobs[1:4], jobs) == "; 2 to go took 9 min the last time, 1 to go has not run here before"
    assert guess.left(jobs[3:], jobs) == "; 2 to go have not run here before", "a probe's seconds say nothing about answers"
    assert guess.left(jobs[3:], []) == "" and guess.left([], jobs) == "", "nothing is left of what is done already"
