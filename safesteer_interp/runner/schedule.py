"""Jobs: what a run will do for each analysis, and whether it has been done before."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safesteer_interp import files
from safesteer_interp.errors import NotApplicableError, SafeSteerError, UsageError, did_you_mean
from safesteer_interp.paths import cache_dir
from safesteer_interp.progress import span
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.folders import RECORD
from safesteer_interp.runner.provenance import input_key, seconds_taken
from safesteer_interp.runner.remote import refused
from safesteer_interp.runner.results import MEASURE_ERRORS
from safesteer_interp.runner.session import Session
from safesteer_interp.runner.suitability import lacking
from safesteer_interp.tracing.demand import Demand, Want
from safesteer_interp.tracing.spec import TraceSpec


@dataclass
class Job:
    """One analysis to run, with its parameters, its folder and what its result depends on."""

    session: Session
    analysis: Analysis
    p: Any
    folder: Path
    place: str = ""
    """What the result folder is called, without the folders above."""
    specs: list[TraceSpec] = field(default_factory=list)
    excuse: str = ""
    """Why it is skipped; empty when it is not."""
    broken: Exception | None = None
    """What its `needs` failed with; raised when its turn comes, so that the others run."""

    @cached_property
    def demands(self) -> list[tuple[Demand, str]]:
        """What is asked of the model, each with the hash of the requests behind it."""
        return [(self.session.demand_of(spec), self.session.data_key(spec)) for spec in self.specs]

    @cached_property
    def key(self) -> str:
        """Identity of the result. Raises what a wrong spec or an unreadable image raises."""
        s = self.session
        return input_key(
            self.analysis,
            self.p,
            model=str(s.model.fingerprint),
            thinking=s.model.thinking,
            stops=s.stops,
            dtype=s.dtype,
            answers=s.answer_dtype,
            dataset=s.dataset,
            demands=self.demands,
        )

    @property
    def data(self) -> dict[str, str]:
        """Hash of the requests behind each demand, for the provenance."""
        return {f"{i}:{demand.dataset}": data for i, (demand, data) in enumerate(self.demands)}

    @property
    def beyond_traces(self) -> str:
        """What it will compute beside its traces, in words; empty when nothing is known of that."""
        if self.analysis.cost is None or self.excuse or self.broken is not None:
            return ""
        pairs = {request.pair for request in self.session.requests_for(self.specs[0])} if self.specs else set()
        return self.analysis.cost(self.p, len(pairs), int(self.session.model.n_layers))

    @property
    def marker(self) -> Path:
        """The mark a finished result leaves in the user cache, never beside the figures: those are committed and travel."""
        return cache_dir() / "results" / f"{self.key[:32]}.json"

    def ask_again(self) -> None:
        """Works out demands and key anew, now that a request was left out."""
        for name in ("demands", "key"):
            self.__dict__.pop(name, None)

    def is_finished(self) -> bool:
        """True when this very result was computed before and its tables and claims still lie there untouched."""
        if self.broken is not None:
            return False
        try:
            if self.analysis.timed and not self.marker.is_file():
                self._adopt()
            recorded = json.loads(self.marker.read_text(encoding="utf-8"))
        except (SafeSteerError, OSError, ValueError, LookupError, TypeError, AttributeError):
            return False  # never finished, or by damaged records; or an unreadable image or a wrong spec: the attempt itself will say so
        return bool(recorded.get("measured")) and files.files_of(self.folder, recorded["measured"])

    def _adopt(self) -> None:
        """Leaves the mark for timings that came with the checkout: measured here they would be other numbers for the same question.

        `fresh` measures them on this machine.
        """
        record = files.read_json(self.folder / RECORD)
        if record.get("input_key") == self.key:
            measured = ["claims.json", *(f"{name}.csv" for name in record["tables"])]
            files.write_json(self.marker, {"measured": {name: files.sha256_of(self.folder / name) for name in measured}})


@dataclass(frozen=True)
class PlanReport:
    """What a run would trace."""

    groups: list[Want]
    width: int
    jobs: list[Job]
    unreadable: tuple[str, ...] = ()
    """What is wrong with each of the user's files that is no analysis."""

    @property
    def n_bytes(self) -> int:
        """Bytes the missing traces will take."""
        return sum(g.demand.n_bytes(self.width) * len(g.requests) for g in self.groups)

    def record(self) -> dict[str, Any]:
        return {
            "analyses": [
                {
                    "id": j.analysis.id,
                    "folder": str(j.folder),
                    "skipped": j.excuse or None,
                    "will_fail": str(j.broken) if j.broken else None,
                    "beyond_traces": j.beyond_traces or None,
                }
                for j in self.jobs
            ],
            "unreadable": list(self.unreadable),
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

    Raises UsageError for an unknown parameter or one that asks for what the model has not got (a layer), InputError when the model or
    the run's data set cannot be loaded.
    """
    settings = _by_analysis(analyses, overrides)
    jobs = []
    for analysis in analyses:
        given = settings[analysis.id]
        folder = Path(out) / analysis.id / session.place / subfolder
        place = "--".join(filter(None, (session.place, subfolder)))
        job = Job(session, analysis, analysis.parameters(profile, given), folder, place, excuse=_excuse(session, analysis))
        if not job.excuse:
            try:
                job.specs = list(analysis.needs(job.p))
                for spec in job.specs:
                    session.demand_of(spec)
                if session.settings.remote and (why := refused(job.specs)):
                    raise NotApplicableError(why)
                missing = lacking(analysis.data, analysis.attacks, [(spec, session.requests_for(spec)) for spec in job.specs])
                job.excuse = f'the data set "{session.dataset_name}" {missing}' if missing else ""
            except NotApplicableError as cause:
                job.excuse = str(cause)
            except MEASURE_ERRORS as cause:
                if given and isinstance(cause, UsageError):
                    raise UsageError(f"{analysis.id} with {', '.join(f'{k} = {v}' for k, v in given.items())}: {cause}") from None
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
    absent = [str(a) for a in analysis.attacks if a not in has]
    return f'the data set "{session.dataset_name}" has no request of attack {", ".join(absent)}.' if absent else ""


class TimeLeft:
    """Time left, from what each analysis took the last time it ran here. One that never did is counted, not guessed: answers take
    minutes where probes take seconds, so that the others say nothing about it."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        known = {job.analysis.id: seconds_taken(job.analysis.id, job.place) for job in jobs}
        self.known = {name: seconds for name, seconds in known.items() if seconds is not None}

    def left(self, rest: Sequence[Job], due: Sequence[Job]) -> str:
        waiting = [j for j in rest if j in due]
        if not waiting:
            return ""
        known = [self.known[j.analysis.id] for j in waiting if j.analysis.id in self.known]
        new = len(waiting) - len(known)
        told = [f"{len(known)} to go took {span(sum(known))} the last time"] if known else []
        told += [f"{new} to go {'has' if new == 1 else 'have'} not run here before"] if new else []
        return f"; {', '.join(told)}"
