"""Rehearsal: a user's analysis is tried on the known-answer model before anything is traced on theirs.

A mistake in `claims` or `draw` would otherwise show only after the whole trace. The rehearsal takes seconds and is remembered per version
of the code. It only finds mistakes: an analysis that asks for what the known-answer model has not got is let through.
"""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path
from typing import Any

from safesteer_interp import files
from safesteer_interp.errors import SafeSteerError, UsageError
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner.analysis import Analysis, like_returned
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.params import as_record
from safesteer_interp.runner.results import MEASURE_ERRORS
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.runner.source import measuring_code

MODEL = "planted"
PAIRS = 24
"""Pairs of the known-answer data: twelve to fit on, four to choose on, eight to report on."""


def rehearse(analysis: Analysis, p: Any) -> None:
    """Table, claims and figure of an analysis on the known-answer model, all thrown away.

    Raises UsageError, naming file and line, when one of them fails with anything but a sentence of the suite's own.
    """
    passed = cache_dir() / "rehearsed" / f"{files.digest([measuring_code(analysis.source), analysis.id, as_record(p)])[:32]}.json"
    if passed.is_file():
        return
    try:
        with tempfile.TemporaryDirectory(prefix="rehearsal-") as place:
            _perform(analysis, p, Path(place))
    except SafeSteerError:
        return  # it says what it lacks; whether the user's model has it shows when it runs
    except MEASURE_ERRORS as cause:
        raise UsageError(
            f"{analysis.source}{_where(cause, analysis.source)} fails in the rehearsal on the known-answer model "
            f"({type(cause).__name__}: {cause}); correct it, or give --no-rehearsal if it cannot run there."
        ) from cause
    files.write_json(passed, {"analysis": analysis.id})


def _perform(analysis: Analysis, p: Any, place: Path) -> None:
    from safesteer_interp.plotting import style

    settings = RunSettings(model=MODEL, data=f"{MODEL}:n_pairs={PAIRS}", store=place / "traces", progress=False)
    tables, _ = measure(Context(Session(settings), analysis, p, place))
    with style():
        drawn = analysis.draw(like_returned(tables), p)
    figures = drawn if isinstance(drawn, dict) else {"figure": drawn}
    if not figures or not all(hasattr(figure, "savefig") for figure in figures.values()):
        raise TypeError(f"draw must return a matplotlib Figure, or several by name; it returned {drawn!r}")


def _where(cause: BaseException, source: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(cause.__traceback__) if frame.filename == str(source)]
    return f", line {lines[-1]}," if lines else ""
