"""`safesteer sweep ANALYSIS --layers 0-29 --widths 1,2,4`: one analysis over ranges of its own parameters, on the stored trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safesteer_interp.cli.command import Positional, emit_json, say
from safesteer_interp.cli.run import render_folder, show_plan
from safesteer_interp.cli.run_flags import RunFlags
from safesteer_interp.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from safesteer_interp.runner.analysis import Analysis


@dataclass(frozen=True)
class Sweep(RunFlags):
    """Run one analysis over ranges of its parameters, each given as a flag of its own: --layers 0-29 --widths 1,2,4.

    All layers and reads come from one stored trace, so a sweep costs hardly more than a single setting. `safesteer sweep ANALYSIS
    --help` also lists the parameters of that analysis.
    """

    id: Positional[str] = "layer_choice"
    """The analysis (`safesteer list analyses`)."""
    out: Path = Path("figures/sweeps")
    """Folder of the results."""


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    import tyro

    from safesteer_interp.runner.discovery import discover

    if {"-h", "--help"} & set(arguments):
        shipped = discover()
        for asked in [shipped[word] for word in arguments if word in shipped][:1]:
            print(parameter_help(asked), end="\n\n")
    flags, rest = tyro.cli(
        Sweep, prog="safesteer sweep", args=list(arguments), return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff,)
    )
    known = discover(flags.analyses)
    for cause in known.failing([flags.id]).values():
        raise cause
    ranges = parse_ranges(rest, known.choose([flags.id])[0])
    from safesteer_interp.runner import plan_sweep, sweep

    if flags.dry_run:
        show_plan(plan_sweep(flags.id, ranges, **flags.for_runner()), as_json=flags.json)
        return 0

    report = sweep(flags.id, ranges, fresh=flags.fresh, render=render_folder, **flags.for_runner())
    emit_json(report.record()) if flags.json else print(report)
    for result in (r for one in report.runs for r in one.failed if r.detail):
        say(result.detail)
    return report.exit_code


def parse_ranges(rest: Sequence[str], analysis: Analysis) -> dict[str, str]:
    """{"layers": "0-29"} from ["--layers", "0-29"] (or "--layers=0-29"). Raises UsageError for what is no parameter of the analysis."""
    from safesteer_interp.fields import field_help

    fields, found, words = field_help(analysis.params), {}, list(rest)
    while words:
        flag = words.pop(0)
        if not flag.startswith("--"):
            raise UsageError(f'"{flag}" belongs to no flag; give parameters of {analysis.id} as --NAME VALUE.')
        name, equals, value = flag[2:].partition("=")
        name = name.replace("-", "_")
        if name not in fields:
            raise UsageError(f'{analysis.id} has no parameter "{name}".{did_you_mean(name, fields)}')
        if not equals:
            if not words or words[0].startswith("--"):
                raise UsageError(f"--{name} needs a value, e.g. --{name} 0-9.")
            value = words.pop(0)
        found[name] = value
    return found


def parameter_help(analysis: Analysis) -> str:
    """The parameters of one analysis with their defaults and help."""
    from safesteer_interp.fields import field_help

    defaults = analysis.parameters()
    lines = [f"Parameters of {analysis.id} ({analysis.question})"]
    for name, text in field_help(analysis.params).items():
        lines.append(f"  --{name.replace('_', '-')} (default {getattr(defaults, name)})  {' '.join(text.split())}")
    return "\n".join(lines)
