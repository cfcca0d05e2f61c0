"""What a replication works on: the judges, the benchmarks of the paper that are there, and the requests its method is fitted on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING

from safesteer_interp.cli.compare import Compare
from safesteer_interp.cli.comparing import fitting, training_requests
from safesteer_interp.cli.inputs import choose_requests
from safesteer_interp.errors import SafeSteerError
from safesteer_interp.evaluation.comparison import Benchmark
from safesteer_interp.evaluation.judge import Judge, judge_named
from safesteer_interp.evaluation.refusal_strings import RefusalStrings
from safesteer_interp.replication import protocol
from safesteer_interp.requests import Request

if TYPE_CHECKING:
    from safesteer_interp.cli.replicate import Replicate
    from safesteer_interp.models.mllm import MLLM

REFUSALS = RefusalStrings("vlguard")
"""Which harmless requests were refused."""


def panel(asked: Replicate) -> tuple[tuple[Judge, ...], str]:
    """All judges, each once: lists of strings, judges of harm, the grader; and the name of the one whose verdicts fill the tables."""
    given = [_placed(text, asked.loading.device) for text in asked.judges] or [RefusalStrings()]
    harm = [judge for judge in given if not isinstance(judge, RefusalStrings)] or given
    lists = [judge for judge in (REFUSALS, *given) if isinstance(judge, RefusalStrings)]
    found = {judge.name: judge for judge in (*lists, *harm, *([judge_named(asked.grader)] if asked.grader else []))}
    return tuple(found.values()), harm[0].name


def _placed(text: str, device: str) -> Judge:
    """The judge of that name, on the model's device where it runs on one and none is named for it."""
    judge = judge_named(text)
    on_one = is_dataclass(judge) and any(f.name == "device" for f in fields(judge)) and "device=" not in text
    return replace(judge, device=device) if on_one else judge  # type: ignore[type-var]


@dataclass
class Given:
    """Data of the paper, as far as it is there."""

    benchmarks: list[Benchmark] = field(default_factory=list)
    training: str = ""
    fit: list[Request] = field(default_factory=list)
    """Requests that probe, vector and protector are fitted on."""
    deviations: list[str] = field(default_factory=list)
    """Those that the data made necessary."""
    missing: list[str] = field(default_factory=list)
    """What cannot be measured, and why."""

    @classmethod
    def find(cls, asked: Replicate, mllm: MLLM) -> Given:
        """The paper's data sets where they are, else what stands in for them, else why there is nothing.

        Raises InputError when there is nothing to fit on.
        """
        found = cls()
        for column in protocol.COLUMNS_OF_TABLE_1:
            found._add(column, asked, mllm)
        tried = [(asked.training, f"Probe and vector are fitted on {asked.training}, as was asked for.")] if asked.training else []
        for name, deviation in tried or protocol.TRAINING:
            try:
                found.fit = training_requests(Compare(data_root=asked.data_root, training_pairs=asked.training_pairs), mllm, name)
            except SafeSteerError:
                if tried or name == protocol.TRAINING[-1][0]:
                    raise
                continue
            found.training = name
            found.deviations += [deviation] if deviation else []
            break
        return found

    def _add(self, column: protocol.Column, asked: Replicate, mllm: MLLM) -> None:
        """The first of a column's data sets that is there; where none is, what the paper's own lacks."""
        from safesteer_interp.datasets.registry import grader_of, references_of

        root, causes = asked.data_root, list[SafeSteerError]()
        for name, deviation in column.data:
            try:
                made = Benchmark(column.benchmark, choose_requests(name, data_root=root), grader_of(name, root), references_of(name, root))
                self.benchmarks += fitting([made], mllm)
            except SafeSteerError as cause:
                causes.append(cause)
                continue
            self.deviations += [deviation] if deviation else []
            return
        self.missing.append(f"{column.name}: {causes[0]}")
