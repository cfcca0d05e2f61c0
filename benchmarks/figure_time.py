"""Where the time of `make figures` goes: loading, tracing, each analysis, drawing, the gallery, and a second run.

    python benchmarks/figure_time.py [--model mini] [--profile quick] [--out benchmarks/figure_time.json] [--keep FOLDER] [IDS ...]

Everything is made from nothing in temporary folders (or in --keep, which must not exist), so neither figures/ nor the user's traces are
touched; only a prepared `mini` is taken from the user cache, and its preparation is not part of the time. Prints a table and writes it,
with the limits of the project, as JSON. Exit code 1 when a limit is passed. The record says which findings it timed and how many there
were (`findings`): its totals are those of these, and of all of them only where `all` is true.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"load, trace and findings": 600.0, "SafeSteer analyses": 600.0, "second run": 60.0, "render and gallery": 20.0}
"""Seconds on two cores, from the project's own goals: ten minutes for where harm is readable, ten for the defense."""
FIRST_OF_SAFESTEER = 9
"""Place in the gallery (`Analysis.order`) of the first analysis of SafeSteer; those before it are the findings."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ids", nargs="*", help="analyses; all when none is named")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--profile", default="quick", choices=("quick", "full"))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "figure_time.json")
    parser.add_argument("--keep", type=Path, help="new folder in which figures, traces and answers are made and left")
    chosen = parser.parse_args(arguments)
    if chosen.keep is not None:
        chosen.keep.mkdir(parents=True)
        record = measure(chosen.ids, chosen.model, chosen.profile, chosen.keep)
    else:
        with tempfile.TemporaryDirectory(prefix="figure-time-") as place:
            record = measure(chosen.ids, chosen.model, chosen.profile, Path(place))
    chosen.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    show(record)
    return 1 if record["over_limit"] else 0


def measure(ids: Sequence[str], model: str, profile: str, place: Path) -> dict[str, Any]:
    """Times a run from nothing, the same run again, and drawing in a fresh process. `place` must be empty."""
    figures = place / "figures"
    stages: list[tuple[str, float]] = []
    begun = time.perf_counter()
    from safesteer_interp import report, runner
    from safesteer_interp.runner.discovery import discover

    stages.append(("import", time.perf_counter() - begun))
    begun = time.perf_counter()
    session, traced = _timed(runner.RunSettings(model=model, store=place / "traces"))
    name = str(session.model.name)
    stages.append(("load the model", time.perf_counter() - begun))
    drawing: list[float] = []

    def render(analysis: Any, folder: Path) -> list[Path]:
        started = time.perf_counter()
        written = report.render_folder(analysis, folder)
        drawing.append(time.perf_counter() - started)
        return written

    # `mini` is built into the user cache once; only what this run itself would cache goes to the temporary folder.
    kept = os.environ.get("SAFESTEER_CACHE")
    os.environ["SAFESTEER_CACHE"] = str(place / "cache")
    try:
        first = runner.run(ids, profile=profile, out=figures, render=render, session=session)
        again = runner.run(ids, profile=profile, out=figures, render=render, session=session)
    finally:
        if kept is None:
            del os.environ["SAFESTEER_CACHE"]
        else:
            os.environ["SAFESTEER_CACHE"] = kept
    tracing = sum(seconds for _, seconds in traced)
    stages += [("trace", tracing), *((f"trace: {what}", seconds) for what, seconds in traced)]
    stages += [(f"analysis: {r.id}", r.seconds) for r in first.results]
    stages.append(("of which drawing", sum(drawing)))
    fresh = _render_in_a_fresh_process(figures)
    loading = dict(stages)["import"] + dict(stages)["load the model"]
    orders = {a.id: a.order for a in discover().values()}
    defended = sum(r.seconds for r in first.results if orders[r.id] >= FIRST_OF_SAFESTEER)
    totals = {
        "load, trace and findings": first.seconds - defended + loading,
        "SafeSteer analyses": defended,
        "second run": again.seconds + loading,
        "render and gallery": fresh,
    }
    return {
        "findings": coverage(list(orders), [r.id for r in first.results]),
        "model": name,
        "profile": profile,
        "folder": session.place,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "load_before": round(os.getloadavg()[0], 2)},
        "stages": [{"stage": stage, "seconds": round(seconds, 2)} for stage, seconds in stages],
        "totals": {k: round(v, 2) for k, v in totals.items()},
        "limits": LIMITS,
        "over_limit": [k for k, limit in LIMITS.items() if totals[k] > limit],
        "statuses": {"first": {r.id: r.status for r in first.results}, "second": {r.id: r.status for r in again.results}},
    }


def coverage(known: Collection[str], timed: Collection[str]) -> dict[str, Any]:
    """How many of the known findings were timed, which were not, and whether the record is one of all."""
    missing = sorted(set(known) - set(timed))
    return {"timed": len(set(known) & set(timed)), "of": len(set(known)), "not_timed": missing, "all": not missing}


def title(record: dict[str, Any]) -> str:
    """What a record is of: how many findings, on which model and machine."""
    found = record["findings"]
    return (
        f"{found['timed']} of {found['of']} findings on {record['model']}, profile {record['profile']}, {record['machine']['cores']} cores"
    )


def _render_in_a_fresh_process(figures: Path) -> float:
    lines = ("from pathlib import Path", "from safesteer_interp import report", f"f = Path({str(figures)!r})", "report.render(figures=f)")
    code = "; ".join((*lines, "report.build(f)"))
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    return time.perf_counter() - begun


def show(record: dict[str, Any]) -> None:
    """Prints the record as a table."""
    table = Table(title=title(record))
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    for row in record["stages"]:
        table.add_row(row["stage"], f"{row['seconds']:.1f}")
    for name, seconds in record["totals"].items():
        table.add_row(f"{name} (limit {record['limits'][name]:.0f})", f"{seconds:.1f}", style="bold")
    Console().print(table)


def _timed(settings: Any) -> tuple[Any, list[tuple[str, float]]]:
    """A session whose trace library remembers how long each trace took, and that list."""
    from safesteer_interp.runner.session import Session

    session = Session(settings)
    traced: list[tuple[str, float]] = []
    library: Any = session.library
    make = library.make

    def timed(want: Any) -> Any:
        begun = time.perf_counter()
        made = make(want)
        d = want.demand
        what = f"{len(want.requests)} requests, {len(d.sites)} sites, {len(d.reads)} reads, {d.max_new_tokens} new tokens"
        traced.append((what, time.perf_counter() - begun))
        return made

    library.make = timed
    return session, traced


if __name__ == "__main__":
    sys.exit(main())
