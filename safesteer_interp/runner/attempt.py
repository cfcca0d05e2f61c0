"""One analysis from traces to files: measured, written, drawn, and marked as finished last of all; or the reason why not."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd

from safesteer_interp import files
from safesteer_interp.errors import BadRequestError, NotApplicableError, SafeSteerError
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner import provenance as origin
from safesteer_interp.runner import source
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.folders import RECORD, STATUS_FILES, remove_stale, written_files
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.remote import running_nowhere
from safesteer_interp.runner.results import MEASURE_ERRORS, AnalysisResult
from safesteer_interp.runner.schedule import Job
from safesteer_interp.runner.tables import table_text

Renderer = Callable[[Analysis, Path], list[Path]]
"""Draws a result folder from its tables: `report.render_folder`. Handed in, since the stages import one way only."""


def attempt(job: Job, profile: str, git: Mapping[str, Any], render: Renderer | None) -> AnalysisResult:
    """One analysis from traces to files; an error becomes a "failed" result and what lay there before stays."""
    while True:
        try:
            return _measured(job, profile, git, render)
        except BadRequestError as cause:
            try:
                job.session.leave_out(cause)
            except BadRequestError:
                return fail(job, cause)
            job.ask_again()
        except NotApplicableError as cause:
            return skip(job, str(cause))
        except MEASURE_ERRORS as cause:
            return fail(job, cause)


def _measured(job: Job, profile: str, git: Mapping[str, Any], render: Renderer | None) -> AnalysisResult:
    begun = time.monotonic()
    if job.broken is not None:
        raise job.broken
    ctx = Context(job.session, job.analysis, job.p, cache_dir() / "work" / job.analysis.id / job.key[:16])
    ctx.work_dir.mkdir(parents=True, exist_ok=True)
    with running_nowhere(ctx.model) if job.session.settings.remote else nullcontext():
        tables, record = measure(ctx)
    note = _replaced(job)
    measured = _write(job, ctx, tables, record, profile)
    origin.note_run(ctx, job.place, key=job.key, seconds=time.monotonic() - begun, git=git)
    if render is not None:
        render(job.analysis, job.folder)
    _finish(job, measured, drew=render is not None)
    shutil.rmtree(ctx.work_dir, ignore_errors=True)
    return AnalysisResult(job.analysis.id, "done", job.folder, verdicts=_verdicts(record), note=note)


def _replaced(job: Job) -> str:
    """Says so when the result that lies there is one of other weights or other requests."""
    try:
        old = files.read_json(job.folder / RECORD)
        other = [
            *(["weights"] if old["model"]["fingerprint"] != job.session.model.fingerprint else []),
            *(["requests"] if old["data"]["name"] != job.session.usual_dataset and old["data"]["requests"] != job.data else []),
        ]
    except (SafeSteerError, LookupError, TypeError):
        return ""
    return f"replaces the result of other {' and '.join(other)} in {job.folder}" if other else ""


def _write(job: Job, ctx: Context, tables: Mapping[str, pd.DataFrame], record: Mapping[str, Any], profile: str) -> list[str]:
    """Writes tables, claims and provenance; returns what was measured. Pictures of an earlier run stay until they are drawn again."""
    old = written_files(job.folder)
    measured = [*(f"{name}.csv" for name in tables), "claims.json"]
    for name, table in tables.items():
        files.write_text(job.folder / f"{name}.csv", table_text(table))
    gone = {name for name in old if name.endswith(".csv")} - set(measured)
    remove_stale(job.folder, gone, ())
    files.write_json(job.folder / "claims.json", record)
    rows = {name: len(t) for name, t in tables.items()}
    listed = {*measured, *(old - gone)}
    files.write_json(job.folder / RECORD, origin.provenance(ctx, key=job.key, data=job.data, profile=profile, rows=rows, files=listed))
    _clear_notes(job)
    return measured


def _clear_notes(job: Job, but: str = "") -> None:
    """Removes what earlier runs left in place of a result, which is no longer so."""
    for name in STATUS_FILES:
        if name != but:
            (job.folder / name).unlink(missing_ok=True)


def _finish(job: Job, measured: Sequence[str], *, drew: bool = True) -> None:
    """Leaves the mark that lets the next run pass over this analysis: last of all, so that a killed run leaves none.

    Where nothing was drawn (`drew` False) pictures that lie there are of an earlier result, and the next run draws them.
    """
    drawn = sorted(written_files(job.folder) - set(measured)) if drew else []
    files.write_json(
        job.marker,
        {
            "measured": {name: files.sha256_of(job.folder / name) for name in measured},
            "drawn": {name: files.sha256_of(job.folder / name) for name in drawn if (job.folder / name).is_file()},
            "drawing": source.drawing_code(),
        },
    )


def unchanged(job: Job, render: Renderer | None) -> AnalysisResult:
    """Nothing to measure; pictures are drawn again only when one is missing or the drawing code has changed."""
    marker = files.read_json(job.marker)
    status = "unchanged"
    if render is not None and not (
        marker.get("drawn") and marker.get("drawing") == source.drawing_code() and files.files_of(job.folder, marker["drawn"])
    ):
        try:
            render(job.analysis, job.folder)
        except MEASURE_ERRORS as cause:
            return fail(job, cause)
        _finish(job, list(marker["measured"]))
        status = "redrawn"
    _clear_notes(job)
    return AnalysisResult(job.analysis.id, status, job.folder, verdicts=_verdicts(files.read_json(job.folder / "claims.json")))


def skip(job: Job, reason: str) -> AnalysisResult:
    _leave_note(job, "skipped.json", reason)
    return AnalysisResult(job.analysis.id, "skipped", job.folder, reason)


def fail(job: Job, cause: BaseException) -> AnalysisResult:
    reason = str(cause) or type(cause).__name__
    if not isinstance(cause, SafeSteerError):
        frame = traceback.extract_tb(cause.__traceback__)[-1]
        reason = f"{type(cause).__name__}: {reason} ({Path(frame.filename).name}, line {frame.lineno})"
    _leave_note(job, "failed.json", reason)
    code = cause.exit_code if isinstance(cause, SafeSteerError) else SafeSteerError.exit_code
    detail = "" if isinstance(cause, SafeSteerError) else "".join(traceback.format_exception(cause))
    return AnalysisResult(job.analysis.id, "failed", job.folder, reason, exit_code=code, detail=detail)


def _leave_note(job: Job, name: str, reason: str) -> None:
    s = job.session
    about = {"model": str(s.model.name), "dataset": origin.portable(s.dataset), "known_answer": s.known_answer}
    files.write_json(job.folder / name, {"analysis": origin.about(job.analysis), **about, "reason": reason})
    _clear_notes(job, but=name)


def _verdicts(record: Mapping[str, Any]) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in record["claims"]}
