"""`safesteer run`: traces, tables, claims and figures of the analyses asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesteer_interp.cli.command import Positional, emit_json, parse, say
from safesteer_interp.cli.run_flags import RunFlags, overrides
from safesteer_interp.errors import UsageError

if TYPE_CHECKING:
    from safesteer_interp.runner.analysis import Analysis
    from safesteer_interp.runner.schedule import PlanReport


@dataclass(frozen=True)
class Run(RunFlags):
    """Make the figures, tables and claims of analyses, in figures/<analysis>/<model>/: the shipped ones, and yours in ./analyses.

    Finished and unchanged analyses are left alone; an interrupted run resumes; one failure stops no other.
    """

    ids: Positional[tuple[str, ...]] = ()
    """Analyses by id (`safesteer list analyses`)."""
    all: bool = False
    """Every analysis."""
    set: tuple[str, ...] = ()
    """Parameters, e.g. --set seed=1 layer_choice.pairs=20."""
    no_render: bool = False
    """Compute tables and claims only; draw later with `safesteer render`."""
    jobs: int = 1
    """Processes that share the work, each with the model and its part of the threads: for models that are small for the machine."""
    part: str = ""
    """Make only this part of the traces, e.g. 2/8, and stop: for several processes or machines that share --store. The same command
    without --part then takes over what they made (`safesteer submit` does both)."""
    no_rehearsal: bool = False
    """Do not try your own analyses on the known-answer model first (a few seconds that find mistakes before a long trace)."""

    def run(self) -> int:
        """Runs, or prints the plan; the largest exit code of a failed analysis."""
        if bool(self.ids) == self.all:
            raise UsageError("name the analyses to run, or give --all for every one (`safesteer list analyses` shows them).")
        if self.part:
            from safesteer_interp.tracing.parts import Share

            Share.parse(self.part)  # of a plan, too, what is wrong with it is said
        if self.part and not self.dry_run:
            return share(self, self.ids, overrides(self.set), self.part)
        return execute(self, self.ids, overrides(self.set), draw=not self.no_render, rehearsal=not self.no_rehearsal, jobs=self.jobs)


def execute(
    flags: RunFlags, ids: Sequence[str], parameters: dict[str, Any], *, draw: bool = True, rehearsal: bool = True, jobs: int = 1
) -> int:
    """Runs or plans with these flags and prints the outcome."""
    from safesteer_interp import runner

    if flags.dry_run:
        show_plan(runner.plan(ids, overrides=parameters, **flags.for_runner()), as_json=flags.json)
        return 0
    render = render_folder if draw else None
    options = flags.for_runner()
    report = runner.run(ids, overrides=parameters, fresh=flags.fresh, render=render, rehearsal=rehearsal, jobs=jobs, **options)
    if flags.json:
        emit_json(report.record())
    else:
        print(report)
    if any(r.detail for r in report.failed):
        say("".join(r.detail for r in report.failed))
    return report.exit_code


def show_plan(planned: PlanReport, *, as_json: bool) -> None:
    """Prints which traces are missing, where results will lie, what is skipped and what cannot be run as it is."""
    for sentence in planned.unreadable:
        say(sentence)
    if as_json:
        emit_json(planned.record())
        return
    from rich.filesize import decimal

    for group in planned.groups:
        d = group.demand
        asked = f"{len(d.sites)} sites, {len(d.reads)} reads, {d.max_new_tokens} new tokens"
        print(f"{len(group.requests)} requests of {d.dataset}: {asked}")
    for job in planned.jobs:
        more = f"; {job.beyond_traces}" if job.beyond_traces else ""
        end = f"skipped, {job.excuse}" if job.excuse else f"will fail, {job.broken}" if job.broken else job.folder
        print(f"{job.analysis.id}: {end}{more}")
    print(f"{len(planned.groups)} traces to make, {decimal(planned.n_bytes)}")


def share(flags: RunFlags, ids: Sequence[str], parameters: dict[str, Any], part: str) -> int:
    """Makes one part of the traces and says how much that was."""
    from safesteer_interp.runner import trace_share
    from safesteer_interp.tracing.parts import Share

    made = trace_share(ids, share=Share.parse(part), overrides=parameters, **flags.for_runner())
    emit_json({"part": part, "shards": made}) if flags.json else say(f"part {part}: {made} shards made.")
    return 0


def render_folder(analysis: Analysis, folder: Path) -> list[Path]:
    """Draws one result; the report stage is imported only now."""
    from safesteer_interp.report import render_folder as draw

    return list(draw(analysis, folder))


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Run, "run", arguments).run()
