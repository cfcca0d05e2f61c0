"""Runs analyses: plan the traces, make each once, then table, claims, figure, provenance; only what has changed is done again."""

from __future__ import annotations

import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from safesteer_interp import files
from safesteer_interp.errors import NotApplicableError, SafeSteerError
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner import provenance as origin
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.discovery import choose, discover
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.results import MEASURE_ERRORS, AnalysisResult, RunReport
from safesteer_interp.runner.schedule import Job, PlanReport, TimeLeft, identify, is_finished, make_jobs, marker_of
from safesteer_interp.runner.session import Session, Settings
from safesteer_interp.runner.tables import table_text

Renderer = Callable[[Analysis, Path], list[Path]]
"""Draws a result folder from its tables: `report.render_folder`. Handed in, since the stages import one way only."""

FIGURES = Path("figures")
STATUS_FILES = ("skipped.json", "failed.json")


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
    **settings: Any,
) -> RunReport:
    """Runs the analyses asked for (none asked: all) and writes `out/<analysis>/<model>/`.

    `settings` are the fields of `session.Settings` (model, data, data_root, store, device, ...). `overrides` sets parameters:
    {"layer_choice.pairs": "20"} for one analysis, {"seed": 1} for all that have the field. A finished analysis whose inputs and
    files are unchanged is left alone unless `fresh`; one that fails is reported at the end and stops no other. `folder` is that of
    the analyses, `subfolder` a further folder below the model's (sweeps).

    Raises UsageError for an unknown analysis, parameter or profile, InputError for a model that cannot be loaded.
    """
    started = time.monotonic()
    session = session or Session(Settings(**settings))
    chosen = choose(ids, discover(folder))
    jobs = make_jobs(session, chosen, profile, out, overrides or {}, subfolder)
    say = Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False) if session.settings.progress else Console(quiet=True)
    measuring, git = origin.measuring_code(), origin.git_state(chosen[0].source.parent)
    due = [job for job in jobs if not job.excuse and (fresh or not is_finished(session, job, measuring))]
    _trace(session, due, say)
    guess = TimeLeft(jobs)
    results = []
    with session.sharing_prompts():
        for number, job in enumerate(jobs, start=1):
            begun = time.monotonic()
            say.print(f"[{number}/{len(jobs)}] {job.analysis.id}", markup=False)
            if job.excuse:
                result = _skip(job, job.excuse)
            elif job not in due:
                result = _unchanged(job, render)
            else:
                result = _attempt(session, job, profile, measuring, git, render)
            seconds = time.monotonic() - begun
            results.append(result.taking(seconds))
            guess.took(job, seconds if job in due else 0.0)
            left = guess.left(jobs[number:], due)
            say.print(f"  {result.status}{f' ({result.reason})' if result.reason else ''}, {seconds:.1f} s{left}", markup=False)
    return RunReport(tuple(results), time.monotonic() - started, out)


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
    session = session or Session(Settings(**settings))
    jobs = make_jobs(session, choose(ids, discover(folder)), profile, out, overrides or {})
    specs = [spec for job in jobs if not job.excuse for spec in job.specs]
    return PlanReport(session.missing(specs), int(session.model.width), jobs)


def _trace(session: Session, due: Sequence[Job], say: Console) -> None:
    """Makes the traces of all jobs. A group that cannot be traced is left to the analyses that need it, which then say why."""
    specs = []
    for job in due:
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
            session.library.make(group)
        except MEASURE_ERRORS as cause:
            say.print(f"  could not be traced: {cause}", markup=False)


def _attempt(session: Session, job: Job, profile: str, measuring: str, git: Mapping[str, Any], render: Renderer | None) -> AnalysisResult:
    """One analysis from traces to files; an error becomes a "failed" result and what lay there before stays."""
    try:
        begun = time.monotonic()
        if job.broken is not None:
            raise job.broken
        if not job.key:
            identify(session, job, measuring)
        ctx = Context(session, job.analysis, job.p, cache_dir() / "work" / job.analysis.id / job.key[:16])
        ctx.work_dir.mkdir(parents=True, exist_ok=True)
        tables, record = measure(ctx)
        seconds = time.monotonic() - begun
        written = _write(job, ctx, tables, record, profile, git, seconds)
        if render is not None:
            render(job.analysis, job.folder)
        _finish(job, written)
        shutil.rmtree(ctx.work_dir, ignore_errors=True)
    except NotApplicableError as cause:
        return _skip(job, str(cause))
    except MEASURE_ERRORS as cause:
        return _fail(job, cause)
    return AnalysisResult(job.analysis.id, "done", job.folder, verdicts=_verdicts(record))


def _write(
    job: Job,
    ctx: Context,
    tables: Mapping[str, pd.DataFrame],
    record: Mapping[str, Any],
    profile: str,
    git: Mapping[str, Any],
    seconds: float,
) -> list[str]:
    written = []
    for name, table in tables.items():
        files.write_text(job.folder / f"{name}.csv", table_text(table))
        written.append(f"{name}.csv")
    for stale in job.folder.glob("*.csv"):
        if stale.name not in written:
            stale.unlink()
    files.write_json(job.folder / "claims.json", record)
    files.write_json(
        job.folder / "provenance.json",
        origin.provenance(
            ctx,
            key=job.key,
            data=job.data,
            profile=profile,
            rows={name: len(t) for name, t in tables.items()},
            seconds=seconds,
            git=git,
        ),
    )
    for name in STATUS_FILES:
        (job.folder / name).unlink(missing_ok=True)
    return [*written, "claims.json"]


def _finish(job: Job, measured: Sequence[str]) -> None:
    """Leaves the mark that lets the next run pass over this analysis: last of all, so that a killed run leaves none."""
    drawn = [p for p in job.folder.iterdir() if p.name not in (*measured, "provenance.json") and p.is_file()]
    files.write_json(
        marker_of(job.key),
        {
            "measured": {name: files.sha256_of(job.folder / name) for name in measured},
            "drawn": {p.name: files.sha256_of(p) for p in sorted(drawn)},
            "drawing": origin.drawing_code(),
        },
    )


def _unchanged(job: Job, render: Renderer | None) -> AnalysisResult:
    """Nothing to measure; pictures are drawn again only when one is missing or the drawing code has changed."""
    marker = files.read_json(marker_of(job.key))
    status = "unchanged"
    if render is not None and not (
        marker.get("drawn") and marker.get("drawing") == origin.drawing_code() and files.files_of(job.folder, marker["drawn"])
    ):
        try:
            render(job.analysis, job.folder)
        except MEASURE_ERRORS as cause:
            return _fail(job, cause)
        _finish(job, list(marker["measured"]))
        status = "redrawn"
    return AnalysisResult(job.analysis.id, status, job.folder, verdicts=_verdicts(files.read_json(job.folder / "claims.json")))


def _skip(job: Job, reason: str) -> AnalysisResult:
    _leave_note(job, "skipped.json", {"reason": reason})
    return AnalysisResult(job.analysis.id, "skipped", job.folder, reason)


def _fail(job: Job, cause: BaseException) -> AnalysisResult:
    reason = str(cause) or type(cause).__name__
    if not isinstance(cause, SafeSteerError):
        frame = traceback.extract_tb(cause.__traceback__)[-1]
        reason = f"{type(cause).__name__}: {reason} ({Path(frame.filename).name}, line {frame.lineno})"
    _leave_note(job, "failed.json", {"reason": reason})
    code = cause.exit_code if isinstance(cause, SafeSteerError) else 1
    detail = "" if isinstance(cause, SafeSteerError) else "".join(traceback.format_exception(cause))
    return AnalysisResult(job.analysis.id, "failed", job.folder, reason, exit_code=code, detail=detail)


def _leave_note(job: Job, name: str, record: dict[str, Any]) -> None:
    a = job.analysis
    about = {"id": a.id, "title": a.title, "question": a.question, "replicates": a.replicates, "cites": list(a.cites), "order": a.order}
    files.write_json(job.folder / name, {"analysis": about, **record})


def _verdicts(record: Mapping[str, Any]) -> dict[str, str]:
    return {c["id"]: c["verdict"] for c in record["claims"]}
