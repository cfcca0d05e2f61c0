"""Jobs: what a run will do for each analysis, and whether it has been done before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safesteer_interp import files
from safesteer_interp.errors import NotApplicableError, SafeSteerError, UsageError, did_you_mean
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner import provenance as origin
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.results import MEASURE_ERRORS
from safesteer_interp.runner.session import Session
from safesteer_interp.runner.tables import folder_name
from safesteer_interp.tracing.demand import Want
from safesteer_interp.tracing.spec import TraceSpec


@dataclass
class Job:
    """One analysis to run, with its parameters, its folder and what its result depends on."""

    analysis: Analysis
    p: Any
    folder: Path
    specs: list[TraceSpec] = field(default_factory=list)
    key: str = ""
    data: dict[str, str] = field(default_factory=dict)
    excuse: str = ""
    """Why it is skipped; empty when it is not."""
    broken: Exception | None = None
    """What its `needs` failed with; raised when its turn comes, so that the others run."""


@dataclass(frozen=True)
class PlanReport:
    """What a run would trace."""

    groups: list[Want]
    width: int
    jobs: list[Job]

    @property
    def n_bytes(self) -> int:
        """Bytes the missing traces will take."""
        return sum(g.demand.n_bytes(self.width) * len(g.requests) for g in self.groups)

    def record(self) -> dict[str, Any]:
        return {
            "analyses": [{"id": j.analysis.id, "folder": str(j.folder), "skipped": j.excuse or None} for j in self.jobs],
            "traces": [
                {
                    **{k: list(v) if isinstance(v, tuple) else v for k, v in g.demand.__dict__.items()},
                    "requests": len(g.requests),
                    "bytes": g.demand.n_bytes(self.width) * len(g.requests),
                }
                for g in self.groups
            ],
            "bytes": self.n_bytes,
        }


def make_jobs(
    session: Session, analyses: Sequence[Analysis], profile: str, out: Path, overrides: Mapping[str, Any], subfolder: str = ""
) -> list[Job]:
    """One job per analysis: its parameters, folder and specs, and the reason to skip it where there is one.

    Raises UsageError for an unknown parameter, InputError when the model or the run's data set cannot be loaded.
    """
    settings = _by_analysis(analyses, overrides)
    place = folder_name(str(session.model.name), session.dataset)
    jobs = []
    for analysis in analyses:
        job = Job(analysis, analysis.parameters(profile, settings[analysis.id]), Path(out) / analysis.id / place / subfolder)
        job.excuse = _excuse(session, analysis)
        if not job.excuse:
            try:
                job.specs = list(analysis.needs(job.p))
                for spec in job.specs:
                    session.requests_for(spec)
            except NotApplicableError as cause:
                job.excuse = str(cause)
            except MEASURE_ERRORS as cause:
                job.broken = cause
        jobs.append(job)
    return jobs


def _by_analysis(analyses: Sequence[Analysis], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Overrides per analysis: "id.field" for one, "field" for every analysis that has it."""
    fields = {a.id: set(a.params.__dataclass_fields__) for a in analyses}  # type: ignore[attr-defined]
    found: dict[str, dict[str, Any]] = {a.id: {} for a in analyses}
    for name, value in sorted(overrides.items(), key=lambda item: "." in item[0]):
        owner, dot, field_name = name.rpartition(".")
        if dot and owner not in found:
            raise UsageError(f'--set {name}: no analysis of this run is called "{owner}".{did_you_mean(owner, found)}')
        owners = [owner] if dot else [i for i, known in fields.items() if field_name in known]
        if not owners or field_name not in fields[owners[0]]:
            known = sorted(fields[owner] if dot else set().union(*fields.values()))
            raise UsageError(f"--set {name}: no such parameter.{did_you_mean(field_name, known)}")
        for i in owners:
            found[i][field_name] = value
    return found


def _excuse(session: Session, analysis: Analysis) -> str:
    if analysis.requires_images and not session.model.takes_images:
        return f'the model "{session.model.name}" takes text only, and this question is about images.'
    has = {r.attack for r in session.all_requests()}
    lacking = [str(a) for a in analysis.attacks if a not in has]
    return f'the data set "{session.dataset}" has no request of attack {", ".join(lacking)}.' if lacking else ""


def marker_of(key: str) -> Path:
    """The mark a finished result leaves in the user cache, never beside the figures: those are committed and travel."""
    return cache_dir() / "results" / f"{key[:32]}.json"


def identify(session: Session, job: Job, measuring: str) -> None:
    """Fills in the job's input key and the hash of the requests behind it."""
    demands = [(session.want(spec).demand, session.data_key(spec)) for spec in job.specs]
    job.key = origin.input_key(Context(session, job.analysis, job.p, Path()), demands, measuring)
    job.data = {f"{i}:{demand.dataset}": data for i, (demand, data) in enumerate(demands)}


def is_finished(session: Session, job: Job, measuring: str) -> bool:
    """True when this very result was computed before and its tables and claims still lie there untouched."""
    if job.broken is not None:
        return False
    try:
        identify(session, job, measuring)
    except SafeSteerError:
        return False  # an unreadable image or a wrong spec: the attempt itself will say so
    marker = marker_of(job.key)
    if not marker.is_file():
        return False
    try:
        recorded = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return bool(recorded.get("measured")) and files.files_of(job.folder, recorded["measured"])


class TimeLeft:
    """Time left, from what each analysis took the last time it ran here, else from the mean of those already run."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.known: dict[str, float] = {}
        self.seen: list[float] = []
        for job in jobs:
            path = job.folder / "provenance.json"
            if path.is_file():
                try:
                    self.known[job.analysis.id] = float(json.loads(path.read_text(encoding="utf-8"))["run"]["seconds"])
                except (ValueError, KeyError, TypeError):
                    continue

    def took(self, job: Job, seconds: float) -> None:
        if seconds:
            self.seen.append(seconds)

    def left(self, rest: Sequence[Job], due: Sequence[Job]) -> str:
        waiting = [j for j in rest if j in due]
        if not waiting:
            return ""
        mean = sum(self.seen) / len(self.seen) if self.seen else 10.0
        total = sum(self.known.get(j.analysis.id, mean) for j in waiting)
        return f"; about {total:.0f} s left" if total < 90 else f"; about {total / 60:.0f} min left"
