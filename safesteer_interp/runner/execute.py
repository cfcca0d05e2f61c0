"""Runs analyses: plan the traces, make each once, then table, claims, figure, provenance; only what has changed is done again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from safesteer_interp.errors import BadRequestError, SafeSteerError, UsageError
from safesteer_interp.progress import progress_bar
from safesteer_interp.runner import provenance as origin
from safesteer_interp.runner.attempt import Renderer, attempt, skip, unchanged
from safesteer_interp.runner.discovery import discover, is_own
from safesteer_interp.runner.parallel import PIECES, Errand, Processes, threads_of
from safesteer_interp.runner.rehearsal import rehearse
from safesteer_interp.runner.results import MEASURE_ERRORS, AnalysisResult, RunReport
from safesteer_interp.runner.schedule import Job, PlanReport, TimeLeft, make_jobs
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.tracing.demand import Want

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
    jobs: int = 1,
    **settings: Any,
) -> RunReport:
    """Runs the analyses asked for (none asked: all) and writes `out/<analysis>/<model>/`.

    `settings` are the fields of `session.RunSettings` (model, data, data_root, store, device, ...). `overrides` sets parameters:
    {"layer_choice.pairs": "20"} for one analysis, {"seed": 1} for all that have the field. A finished analysis whose inputs and
    files are unchanged is left alone unless `fresh`; one that fails is reported at the end and stops no other, and so is a request
    that cannot be used. `folder` holds analyses of your own, besides the shipped ones and those in ./analyses; `subfolder` is a
    further folder below the model's (sweeps). With `rehearsal` your own analyses are first tried on the known-answer model.

    `jobs` processes share the work (`runner.parallel`); what is timed runs by itself afterwards. Each loads the model by its name, and
    a script that asks for them has its calls under `if __name__ == "__main__"`.

    Raises UsageError for an unknown analysis, parameter or profile, and for several jobs with a session handed in; InputError for a
    model that cannot be loaded.
    """
    started = time.monotonic()
    if jobs != 1 and session is not None:
        raise UsageError(f"jobs={jobs}: every process loads the model itself; give its name and settings, not a session.")
    session = session or Session(RunSettings(**settings))
    threads_of(jobs)  # less than one is refused before a model is loaded
    known, wanted = discover(folder), list(ids)
    planned = make_jobs(session, known.choose(wanted), profile, out, overrides or {}, subfolder)
    say = Console(file=sys.stderr, highlight=False, soft_wrap=True, emoji=False) if session.settings.progress else Console(quiet=True)
    results = [_no_analysis(path, cause, say) for path, cause in known.failing(wanted).items()]
    git = origin.git_state(planned[0].analysis.source.parent) if planned else {}
    due = [job for job in planned if not job.excuse and (fresh or not job.is_finished())]
    if rehearsal and not session.known_answer:
        _rehearse(due, say)
    shared = [job for job in due if job.broken is None and not job.analysis.timed] if jobs > 1 else []
    done: dict[str, AnalysisResult] = {}
    if shared:
        names = tuple(job.analysis.id for job in planned)
        n = min(jobs, len(shared))
        errand = Errand(session.settings, profile, out, dict(overrides or {}), folder, subfolder, git, render, names, threads_of(n))
        done = _share_out(session, due, shared, n, errand, say)
    else:
        _trace(session, due, say)
    guess = TimeLeft(planned)
    rest = [job for job in planned if job.analysis.id not in done]
    with session.sharing_prompts():
        for number, job in enumerate(rest, start=1):
            begun = time.monotonic()
            say.print(f"[{len(done) + 1}/{len(planned)}] {job.analysis.id}", markup=False)
            if job.excuse:
                result = skip(job, job.excuse)
            elif job not in due:
                result = unchanged(job, render)
            else:
                result = attempt(job, profile, git, render)
            done[job.analysis.id] = result = result.taking(time.monotonic() - begun)
            say.print(f"  {_told(result)}{guess.left(rest[number:], due)}", markup=False)
    results += [done[job.analysis.id] for job in planned]
    return RunReport(tuple(results), time.monotonic() - started, out, tuple(map(str, session.bad)))


def _share_out(
    session: Session, due: Sequence[Job], shared: Sequence[Job], n: int, errand: Errand, say: Console
) -> dict[str, AnalysisResult]:
    """Traces and analyses by several processes; the results by id."""
    done: dict[str, AnalysisResult] = {}
    with Processes(n, errand) as processes:
        sound = _sound(session, due)
        if session.missing([spec for job in sound for spec in job.specs]):
            about = f"tracing {session.model.name} in {n} processes, parts"
            with progress_bar(about, n * PIECES, enabled=session.settings.progress) as advance:
                processes.trace([job.analysis.id for job in sound], advance)
        _trace(session, due, say)
        guess, left = TimeLeft(shared), list(shared)
        for job, ended in processes.attempts(shared):
            left.remove(job)
            done[job.analysis.id] = ended.result
            for error in ended.left_out:
                if str(error) not in map(str, session.bad):
                    session.bad.append(error)
            say.print(f"[{len(done)}/{len(shared)}, {n} at once] {job.analysis.id}", markup=False)
            say.print(f"  {_told(ended.result)}{guess.left(left, due)}", markup=False)
    return done


def _told(result: AnalysisResult) -> str:
    """One line about how an analysis ended."""
    told = "; ".join(filter(None, (result.reason, result.note)))
    return f"{result.status}{f' ({told})' if told else ''}, {result.seconds:.1f} s"


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
    known, wanted = discover(folder), list(ids)
    jobs = make_jobs(session, known.choose(wanted), profile, out, overrides or {})
    specs = [spec for job in _sound(session, [job for job in jobs if not job.excuse]) for spec in job.specs]
    unreadable = tuple(map(str, known.failing(wanted).values()))
    return PlanReport(session.missing(specs), int(session.model.width), jobs, unreadable)


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
    specs = [spec for job in _sound(session, due) for spec in job.specs]
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


def _sound(session: Session, due: Sequence[Job]) -> list[Job]:
    """The jobs whose traces can be asked for."""
    found = []
    for job in (job for job in due if job.broken is None):
        with suppress(SafeSteerError):
            session.missing(job.specs)
            found.append(job)
    return found


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


def _no_analysis(path: Path, cause: SafeSteerError, say: Console) -> AnalysisResult:
    say.print(f"{cause}", markup=False)
    return AnalysisResult(path.stem, "failed", path, str(cause), exit_code=cause.exit_code)
