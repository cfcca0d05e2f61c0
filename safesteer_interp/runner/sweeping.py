"""Sweep: one analysis over a grid of parameter values, all from the same stored traces."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from safesteer_interp import files
from safesteer_interp.errors import SafeSteerError, UsageError, did_you_mean
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.execute import run
from safesteer_interp.runner.params import is_list
from safesteer_interp.runner.results import RunReport
from safesteer_interp.runner.schedule import PlanReport, make_jobs
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.runner.tables import table_text
from safesteer_interp.sites import parse_ranges

SWEEPS = Path("figures") / "sweeps"


@dataclass(frozen=True)
class SweepReport:
    """Where a sweep left its results, and every claim at every grid point."""

    table: pd.DataFrame
    """One row per grid point and claim: the swept values, claim, verdict, value, low, high, n."""
    folder: Path
    runs: tuple[RunReport, ...]

    @property
    def exit_code(self) -> int:
        return max((r.exit_code for r in self.runs), default=0)

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "folder": str(self.folder),
            "exit_code": self.exit_code,
            "runs": [r.record()["results"][0] for r in self.runs],
            "bad_requests": list(self.runs[-1].bad_requests) if self.runs else [],
            "table": self.table.astype(object).where(self.table.notna(), None).to_dict("records"),
        }

    def __str__(self) -> str:
        failed = "".join(f"\nfailed: {r.id}: {r.reason}" for run in self.runs for r in run.failed)
        left_out = "".join(f"\nleft out: {sentence}" for run in self.runs[-1:] for sentence in run.bad_requests)
        return f"{self.table.to_string(index=False)}\nresults in {self.folder}{failed}{left_out}"


def sweep(
    id: str,  # noqa: A002
    grid: Mapping[str, str | Sequence[Any]],
    *,
    profile: str = "quick",
    out: Path = SWEEPS,
    overrides: Mapping[str, Any] | None = None,
    fresh: bool = False,
    folder: Path | None = None,
    render: Any = None,
    session: Session | None = None,
    **settings: Any,
) -> SweepReport:
    """Runs one analysis at every point of a grid of parameter values, from the same traces.

    A field that holds a list (layers, widths) takes the whole list in one run, for the analysis ranges over it itself; a field that
    holds one value ("4,8" for an int) gives one run per value. Results go to `out/<id>/<model>/<point>/`, the claims of all points to
    `out/<id>/<model>/sweep.csv`. Raises UsageError for an unknown analysis or field, or a value of the wrong type.
    """
    analysis = _analysis(id, folder)
    points = grid_points(analysis, grid)
    session = session or Session(RunSettings(**settings))
    place = Path(out) / id / session.place
    runs, tables = [], []
    for point in points:
        options: dict[str, Any] = {"profile": profile, "fresh": fresh, "folder": folder, "render": render, "session": session}
        report = run([id], out=out, overrides=_given(id, point, overrides), subfolder=_subfolder(analysis, point), **options)
        runs.append(report)
        tables += _claims_at(point, report)
    table = pd.DataFrame(tables)
    if len(table):
        files.write_text(place / "sweep.csv", table_text(table))
    return SweepReport(table, place, tuple(runs))


def plan_sweep(
    id: str,  # noqa: A002
    grid: Mapping[str, str | Sequence[Any]],
    *,
    profile: str = "quick",
    out: Path = SWEEPS,
    overrides: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    session: Session | None = None,
    **settings: Any,
) -> PlanReport:
    """What `sweep` with the same arguments would trace, all points together; makes nothing. Raises as `sweep` does."""
    analysis = _analysis(id, folder)
    points = grid_points(analysis, grid)
    session = session or Session(RunSettings(**settings))
    jobs = [
        job
        for point in points
        for job in make_jobs(session, [analysis], profile, Path(out), _given(id, point, overrides), _subfolder(analysis, point))
    ]
    specs = [spec for job in jobs if not job.excuse for spec in job.specs]
    return PlanReport(session.missing(specs), int(session.model.width), jobs)


def _analysis(id: str, folder: Path | None) -> Analysis:  # noqa: A002
    known = discover(folder)
    for cause in known.failing([id]).values():
        raise cause
    return known.choose([id])[0]


def _given(id: str, point: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> dict[str, Any]:  # noqa: A002
    return {**(overrides or {}), **{f"{id}.{name}": value for name, value in point.items()}}


def _subfolder(analysis: Analysis, point: Mapping[str, Any]) -> str:
    """Name of a grid point's folder: its single values; lists are swept within one run."""
    name = ",".join(f"{k}={v}" for k, v in point.items() if not is_list(analysis.params, k))
    return files.safe_name(name) if name else "all"


def grid_points(analysis: Analysis, grid: Mapping[str, str | Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the grid's values, as overrides. Raises UsageError for an unknown field or an empty list."""
    known = list(analysis.params.__dataclass_fields__)  # type: ignore[attr-defined]
    axes: list[list[tuple[str, Any]]] = []
    for name, values in grid.items():
        if name not in known:
            raise UsageError(f'analysis "{analysis.id}" has no parameter "{name}" to sweep.{did_you_mean(name, known)}')
        if is_list(analysis.params, name):
            axes.append([(name, values if isinstance(values, str) else tuple(values))])
            continue
        parts = parse_ranges(values) if isinstance(values, str) else list(values)
        if not parts:
            raise UsageError(f'the sweep of "{name}" names no value; give some, e.g. "1,2,4".')
        axes.append([(name, v) for v in parts])
    points = [dict(combination) for combination in itertools.product(*axes)]
    for point in points:
        analysis.parameters("quick", point)  # refuses a wrong value before anything runs
    return points


def _claims_at(point: Mapping[str, Any], report: RunReport) -> list[dict[str, Any]]:
    rows = []
    for result in report.results:
        if result.status in ("failed", "skipped"):
            continue
        try:
            record = files.read_json(result.folder / "claims.json")
        except SafeSteerError:
            continue
        for claim in record["claims"]:
            estimate = {k: claim["estimate"][k] for k in ("value", "low", "high", "n")}
            rows.append({**{k: str(v) for k, v in point.items()}, "claim": claim["id"], "verdict": claim["verdict"], **estimate})
    return rows
