"""`safesteer replicate`: everything SafeSteer printed, on a model of one's own, by the paper's protocol, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from safesteer_interp.cli.command import emit_json, emit_table, parse, say
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.errors import InputError, UsageError, did_you_mean

if TYPE_CHECKING:
    from safesteer_interp.cli.replicating import Replication
    from safesteer_interp.replication.estimate import Part
    from safesteer_interp.replication.readiness import Ready

PARTS = ("fit", "table1", "table3", "table2", "figures")


@dataclass(frozen=True)
class Replicate:
    """Run everything that a paper printed on your model: tables on the published benchmarks, figures as findings.

    It checks model, data, memory, disk and licences, says what is to come, and ends in OUT/<model>/replication.html and .md: each printed
    number beside ours with its interval, every deviation named. Stopped at any moment, the same command goes on.
    """

    model: str
    """A folder or a hub id, e.g. llava-hf/llava-1.5-7b-hf."""
    paper: Literal["safesteer"] = "safesteer"
    """Which paper: SafeSteer, arXiv 2605.11716."""
    data_root: Path | None = None
    """Folder with the published benchmarks (figstep, mm_safetybench, vlguard, mm_vet); default: $SAFESTEER_DATA."""
    judges: tuple[str, ...] = ("llama_guard",)
    """Judges of harm; the first fills the tables. refusal_strings: "not refused" stands for attack success."""
    grader: str = ""
    """Grades MM-Vet, e.g. mm_vet:model=NAME,url=http://localhost:8000/v1; without one its column stays empty."""
    rule: Literal["paper", "corrected"] = "paper"
    """MSAV as printed, or towards text at unit norm."""
    system_prompt: str | None = None
    """The paper's is not printed; default: as the chat template has it."""
    seeds: str = "0"
    """Samples of every answer, e.g. 0-2."""
    items: int | None = None
    """At most so many items of each benchmark, spread over scenarios: a trial run, named as a deviation."""
    max_new_tokens: int = 128
    """Longest answer; 128 in the paper."""
    training: str = ""
    """Data set that probe and vector are fitted on; default: the paper's D (safesteer_d) where its files are."""
    training_pairs: int = 0
    """Fit on so many pairs; 0: all."""
    profile: Literal["quick", "full"] = "full"
    """Size of the findings behind the figures."""
    set: tuple[str, ...] = ()
    """Parameters of those findings, e.g. --set pairs=20."""
    figures_data: str = ""
    """Requests of those findings; default: the bundled pairs."""
    only: tuple[str, ...] = ()
    """Only these parts: fit table1 table3 table2 figures; default: all."""
    batch_size: int = 64
    """Answers written at a time."""
    speed_requests: int = 8
    """Requests that Table 2's speeds are measured on."""
    gpu_hour_price: float | None = None
    """Price of a GPU hour; the plan and the page then say what it costs."""
    gpus: int = 1
    """GPUs that the model takes: hours are counted on each."""
    tokens_per_second: float | None = None
    """Speed of undefended answers in full batches; default: measured by a short run."""
    out: Path = Path("replication")
    """Folder of the results."""
    store: Path | None = None
    """Folder of traces; answers, verdicts and candidates go beside it; default: "traces" in the user cache."""
    dry_run: bool = False
    """Check and plan, and stop; exit code 3 where something is missing."""
    json: bool = False
    """Print the plan, or the outcome, as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Checks, plans, runs; the page's path on stderr."""
        self._check()
        from safesteer_interp.cli.comparing import seeds_of
        from safesteer_interp.cli.run_flags import overrides
        from safesteer_interp.paths import storing_in

        seeds_of(self.seeds)  # what is wrong with them is said before a model is loaded
        overrides(self.set)

        with storing_in(self.store):
            return self._replicate()

    def _replicate(self) -> int:
        from safesteer_interp.cli.replicating import Replication
        from safesteer_interp.replication.page import told_cost

        work = Replication.of(self)
        ready, parts = work.ready(), work.parts
        refused = [line for line in ready if not line.ok]
        if self.dry_run:
            if self.json:
                emit_json(work.record(ready, parts))
            else:
                self._tell_plan(work, ready, parts)
            return InputError.exit_code if refused else 0
        if refused:
            raise InputError("; ".join(f"{line.what}: {line.detail}" for line in refused) + ". Nothing was run.")
        say(told_cost(parts, self.gpu_hour_price, self.gpus))
        page, outcome = work.run(parts)
        if self.json:
            emit_json({"page": page, **outcome})
        say(f"written to {page}")
        return 0

    def _tell_plan(self, work: Replication, ready: Sequence[Ready], parts: Sequence[Part]) -> None:
        from safesteer_interp.replication.page import time_of, told_cost

        emit_table(("check", "", "found"), [(line.what, "ok" if line.ok else "MISSING", line.detail) for line in ready])
        rows = [(p.name, f"{p.passes:,}", f"{p.answers:,}", f"{p.tokens:,}", f"{p.verdicts:,}", time_of(p.seconds)) for p in parts]
        emit_table(("part", "prompts", "answers", "tokens", "verdicts", "time"), rows)
        print(f"{told_cost(parts, self.gpu_hour_price, self.gpus)}; speed {work.speed.source}")
        for sentence in (*work.deviations(), *work.given.missing):
            print(f"- {sentence}")

    def _check(self) -> None:
        for name, least in (("max_new_tokens", 6), ("training_pairs", 0), ("batch_size", 1), ("speed_requests", 1), ("gpus", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} is not possible; give {least} or more.")
        if self.items is not None and self.items < 1:
            raise UsageError(f"--items {self.items} leaves nothing; give 1 or more.")
        if self.gpu_hour_price is not None and not self.gpu_hour_price >= 0:
            raise UsageError(f"--gpu-hour-price {self.gpu_hour_price:g} is no price; give 0 or more.")
        for part in self.only:
            if part not in PARTS:
                raise UsageError(f'--only: no part is called "{part}".{did_you_mean(part, PARTS)}')


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Replicate, "replicate", arguments).run()
