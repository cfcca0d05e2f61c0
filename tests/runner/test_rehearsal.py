"""A user's analysis is tried on the known-answer model first, so that a mistake costs seconds and not a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.analysis_toys import READABLE, bench_on, write_toys

from safesteer_interp import runner
from safesteer_interp.errors import UsageError
from safesteer_interp.report import render_folder
from safesteer_interp.runner.rehearsal import rehearse

MISTAKES = {
    "claims take a dict where the table is alone": (
        't[t.site == p.sites[-1]].set_index("method")',
        't["table"].set_index("method")',
        "KeyError",
    ),
    "a claim without a control": ("controls=(control,)", "controls=()", "no control"),
    "claims that are no claims": ("return [\n        Claim(", "return [\n        dict(", "Type"),
    "a figure that is none": ("    return fig\n", "    return ax\n", "draw must return a matplotlib Figure"),
    "a misspelt panel": ("panels.forest", "panels.forrest", "AttributeError"),
    "a name that is not there": ("    last = t[", "    last = tt[", "NameError"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_before_anything_is_traced(
    mistake: str, tmp_path: Path, fresh_cache: Path, tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong, words = MISTAKES[mistake]
    assert right in READABLE
    folder = write_toys(tmp_path, "readable")
    (folder / "readable.py").write_text(READABLE.replace(right, wrong))
    session = bench_on(tiny("llava"), tmp_path)
    report = runner.run(["readable"], out=tmp_path / "figures", folder=folder, session=session, render=render_folder)
    assert [r.status for r in report.results] == ["failed"] and report.exit_code == 2
    assert words in report.results[0].reason and "readable.py" in report.results[0].reason and "rehearsal" in report.results[0].reason
    assert not (tmp_path / "traces").exists()


def test_a_sound_analysis_is_rehearsed_once_and_a_changed_one_again(tmp_path: Path, fresh_cache: Path) -> None:
    folder = write_toys(tmp_path, "readable")
    known = runner.discover(folder)["readable"]
    rehearse(known, known.parameters())
    assert len(list((fresh_cache / "rehearsed").iterdir())) == 1
    rehearse(known, known.parameters())
    (folder / "readable.py").write_text(READABLE.replace("seed=p.seed)", "seed=p.seed + 1)"))
    changed = runner.discover(folder)["readable"]
    rehearse(changed, changed.parameters())
    assert len(list((fresh_cache / "rehearsed").iterdir())) == 2


def test_what_the_known_answer_model_has_not_got_is_no_mistake(tmp_path: Path, fresh_cache: Path) -> None:
    folder = write_toys(tmp_path, "readable")
    known = runner.discover(folder)["readable"]
    rehearse(known, known.parameters("quick", {"sites": "resid_post.77"}))
    assert not (fresh_cache / "rehearsed").exists()


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("def claims(t, p):", "def claims(t):", "`claims` of analysis"),
        ("def needs(p):", "def needs(p, more):", "`needs` of analysis"),
        ("def table(ctx, p):", "def table():", "`table` of analysis"),
    ],
)
def test_parts_that_cannot_be_called_are_named(right: str, wrong: str, words: str, tmp_path: Path) -> None:
    folder = write_toys(tmp_path, "readable")
    (folder / "readable.py").write_text(READABLE.replace(right, wrong))
    [cause] = runner.discover(folder).broken.values()
    assert words in str(cause) and "readable.py" in str(cause)
    with pytest.raises(UsageError, match="must be a dataclass"):
        runner.discover()["layer_choice"].__class__("x", "x", int, lambda p: [], lambda c, p: None, lambda t, p: [], lambda t, p: None)
