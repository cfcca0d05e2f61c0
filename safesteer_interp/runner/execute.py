"""Runs analyses: plan the traces, make each once, then table, claims, figure, provenance; only what has changed is done again."""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from safesteer_interp import files
from safesteer_interp.errors import BadRequestError, NotApplicableError, SafeSteerError, UsageError
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner import provenance as origin
from safesteer_interp.runner import source
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.discovery import discover, is_own
from safesteer_interp.runner.folders import RECORD, STATUS_FILES, remove_stale, written_files
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.rehearsal import rehearse
from safesteer_interp.runner.remote import running_nowhere
from safesteer_interp.runner.results import MEASURE_ERRORS, AnalysisResult, RunReport
from safesteer_interp.runner.schedule import Job, PlanReport, TimeLeft, make_jobs
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.runner.tables import table_text
from safesteer_interp.tracing.demand import Want

Renderer = Callable[[Analysis, Path], list[Path]]
"""Draws a result folder from its tables: `report.render_folder`. Handed in, since the stages import one way only."""

FIGURES = Path("figures")


def run(
    ids: Iterable[str] = (),
    *,
    profile: str = "quick",
    out: Path = FIGURES,
    overrides: Mapping[str, Any] | None = None,
    fresh: bool = False,
    folder: Path | None = None,
    subfolder: str = "",
    render: Renderer | None = None,
    session: Session | None = None,
    rehearsal: bool = True,
    **settings: Any,
) -> RunReport:
    """Runs the analyses asked for (none asked: all) and writes `out/<analysis>/<model>/`.

    `settings` are the fields of `session.RunSettings` (model, data, data_root, store, device, ...). `overrides` sets parameters:
    {"layer_choice.pairs": "20"} for one analysis, {"seed": 1} for all that have the field. A finished analysis whose inputs and
    files are unchanged is left alone unless `fresh`; one that fails is reported at the end and stops no other, and so is a request
    that cannot be used. `folder` holds analyses of your own, besides the shipped ones and those in ./analyses; `subfolder` is a
    further folder below the model's (sweeps). With `rehearsal` your own analyses are first tried on the known-answer model.

    Raises UsageError for an unknown analysis, parameter or profile, InputError for a model that cannot be loaded.
    """
    started = time.monotonic()
    session = session or Session(RunSettings(**settings))
    known, wanted = discover(folder), list(ids)
    jobs = make_jobs(session, known.choose(wanted), profile, out, overrides or {}, subfolder)
    say = Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False) if session.settings.progress else Console(quiet=True)
    results = [_no_analysis(path, cause, say) for path, cause in known.failing(wanted).items()]
    git = origin.git_state(jobs[0].analysis.source.parent) if jobs else {}
    due = [job for job in jobs if not job.excuse and (fresh or not job.is_finished())]
    if rehearsal and not session.known_answer:
        _rehearse(due, say)
    _trace(session, due, say)
    guess = TimeLeft(jobs)
    with session.sharing_prompts():
        for number, job in enumerate(jobs, start=1):
            begun = time.monotonic()
            say.print(f"[{number}/{len(jobs)}] {job.analysis.id}", markup=False)
            if job.excuse:
                result = _skip(job, job.excuse)
            elif job not in due:
                result = _unchanged(job, render)
            else:
                result = _attempt(job, profile, git, render)
            seconds = time.monotonic() - begun
            results.append(result.taking(seconds))
            left = guess.left(jobs[number:], due)
            told = "; ".join(filter(None, (result.reason, result.note)))
            say.print(f"  {result.status}{f' ({told})' if told else ''}, {seconds:.1f} s{left}", markup=False)
    return RunReport(tuple(results), time.monotonic() - started, out, tuple(map(str, session.bad)))


def plan(
    ids: Iterable[str] = (),
    *,
    profile: str = "quick",
    out: Path = FIGURES,
    overrides: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    session: Session | None = None,
    **settings: Any,
) -> PlanReport:
    """What `run` with the same arguments would trace; makes nothing. Raises as `run` does."""
    session = session or Session(RunSettings(**settings))
    jobs = make_jobs(session, discover(folder).choose(ids), profile, out, overrides or {})
    specs = [spec for job in jobs if not job.excuse for spec in job.specs]
    return PlanReport(session.missing(specs), int(session.model.width), jobs)


def _rehearse(due: Sequence[Job], say: Console) -> None:
    """Finds mistakes in the user's own analyses before anything is traced for them."""
    for job in due:
        if job.broken is None and is_own(job.analysis):
            say.print(f"rehearsing {job.analysis.id} on the known-answer model", markup=False)
            try:
                rehearse(job.analysis, job.p)
            except UsageError as cause:
                job.broken = cause


def _trace(session: Session, due: Sequence[Job], say: Console) -> None:
    """Makes the traces of all jobs. A group that cannot be traced is left to the analyses that need it, which then say why."""
    specs = []
    for job in (job for job in due if job.broken is None):
        try:
            session.missing(job.specs)
        except SafeSteerError:
            continue
        specs += job.specs
    groups = session.missing(specs)
    for number, group in enumerate(groups, start=1):
        d = group.demand
        tokens = f", {d.max_new_tokens} new tokens" if d.max_new_tokens else ""
        say.print(
            f"trace {number}/{len(groups)}: {len(group.requests)} requests of {d.dataset}, {len(d.sites)} sites, "
            f"{len(d.reads)} reads{tokens}",
            markup=False,
        )
        try:
            _make(session, group, say)
        except MEASURE_ERRORS as cause:
            say.print(f"  could not be traced: {cause}", markup=False)
    for job in due:
        job.ask_again()


def _make(session: Session, group: Want, say: Console) -> None:
    """Makes one trace; a request that cannot be used is named and left out, and the others are traced."""
    while group.requests:
        try:
            session.library.make(group)
            return
        except BadRequestError as cause:
            session.leave_out(cause)
            say.print(f"  left out: {cause}", markup=False)
            group = group.without(cause.request_id)


def _attempt(job: Job, profile: str, git: Mapping[str, Any], render: Renderer | None) -> AnalysisResult:
    """One analysis from traces to files; an error becomes a "failed" result and what lay there before stays."""
    while True:
        try:
            return _measured(job, profile, git, render)
        except BadRequestError as cause:
            try:
                job.session.leave_out(cause)
            except BadRequestError:
                return _fail(job, cause)
            job.ask_again()
        except NotApplicableError as cause:
            return _skip(job, str(cause))
        except MEASURE_ERRORS as cause:
            return _fail(job, cause)


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
    _finish(job, measured)
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
    for name in STATUS_FILES:
        (job.folder / name).unlink(missing_ok=True)
    return measured


def _finish(job: Job, measured: Sequence[str]) -> None:
    """Leaves the mark that lets the next run pass over this analysis: last of all, so that a killed run leaves none."""
    drawn = sorted(written_files(job.folder) - set(measured))
    files.write_json(
        job.marker,
        {
            "measured": {name: files.sha256_of(job.folder / name) for name in measured},
            "drawn": {name: files.sha256_of(job.folder / name) for name in drawn if (job.folder / name).is_file()},
            "drawing": source.drawing_code(),
        },
    )


def _unchanged(job: Job, render: Renderer | None) -> AnalysisResult:
    """Nothing to measure; pictures are drawn again only when one is missing or the drawing code has changed."""
    marker = files.read_json(job.marker)
    status = "unchanged"
    if render is not None and not (
        marker.get("drawn") and marker.get("drawing") == source.drawing_code() and files.files_of(job.folder, marker["drawn"])
    ):
        try:
            render(job.analysis, job.folder)
        except MEASURE_ERRORS as cause:
            return _fail(job, cause)
        _finish(job, list(marker["measured"]))
        status = "redrawn"
    return AnalysisResult(job.analysis.id, status, job.folder, verdicts=_verdicts(files.read_json(job.folder / "claims.json")))


def _no_analysis(path: Path, cause: SafeSteerError, say: Console) -> AnalysisResult:
    say.print(f"{cause}", markup=False)
    return AnalysisResult(path.stem, "failed", path, str(cause), exit_code=cause.exit_code)


def _skip(job: Job, reason: str) -> AnalysisResult:
    _leave_note(job, "skipped.json", reason)
    return AnalysisResult(job.analysis.id, "skipped", job.folder, reason)


def _fail(job: Job, cause: BaseException) -> AnalysisResult:
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
    about = {"model": str(s.model.name), "dataset": s.dataset, "known_answer": s.known_answer}
    files.write_json(job.folder / name, {"analysis": origin.about(job.analysis), **about, "reason": reason})


def _verdicts(record: Mapping[str, Any]) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in record["claims"]}
