"""What `safesteer compare` works on and with: benchmarks, methods ready to answer, the plan, and the tables it prints."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safesteer_interp.cli.command import emit_table, harmless_on_a_terminal, say
from safesteer_interp.cli.inputs import choose_requests
from safesteer_interp.defenses.defense import Defense, Settings, is_black_box
from safesteer_interp.defenses.registry import DEFENSES, Choice, defense_named
from safesteer_interp.errors import InputError, NotApplicableError, SafeSteerError, UsageError
from safesteer_interp.evaluation.comparison import Benchmark, answer_benchmarks, check_judges, judge_answers
from safesteer_interp.evaluation.cost import costs
from safesteer_interp.evaluation.judge import Judge
from safesteer_interp.evaluation.results import Results
from safesteer_interp.models.served import ServedMLLM
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.tracing.tracer import Sampling

if TYPE_CHECKING:
    import pandas as pd

    from safesteer_interp.cli.compare import Compare
    from safesteer_interp.models.mllm import MLLM


def choices(names: Sequence[str]) -> dict[str, Choice]:
    """What was asked for, by the name that tables call it: every registered defense for "all", and "none" first in any case."""
    wanted = [name for text in names for name in (DEFENSES if text == "all" else (text,))]
    return {name: defense_named(name) for name in dict.fromkeys(["none", *wanted])}


def load_benchmarks(asked: Compare) -> list[Benchmark]:
    """The requests of every benchmark, by the name it was asked for under; what cannot be used is named on stderr and left out."""
    from safesteer_interp.datasets.registry import DATASETS, grader_of, references_of
    from safesteer_interp.paths import data_root

    names = list(asked.benchmarks)
    if "all" in names:
        root = asked.data_root or data_root()
        names = [name for name, entry in DATASETS.items() if entry.folder is None or (root is not None and (root / entry.folder).is_dir())]
        closed = asked.model in DATASETS and DATASETS[asked.model].known_answer  # a model with known answers has a world of its name
        names = [name for name in names if DATASETS[name].known_answer == closed]
    found = []
    for name in dict.fromkeys(names):
        try:
            requests = choose_requests(name, data_root=asked.data_root)
        except InputError as cause:
            if "all" not in asked.benchmarks:
                raise
            say(f"left out: {cause}")
            continue
        kept = [r for r in requests if not asked.attacks or str(r.attack) in asked.attacks or r.attack is Attack.NONE]
        if not kept:
            raise UsageError(f'--attacks {" ".join(asked.attacks)}: "{name}" has no request of these.')
        found.append(Benchmark(name, kept, grader_of(name, asked.data_root), references_of(name, asked.data_root)))
    return found


def fitting(benchmarks: Sequence[Benchmark], mllm: MLLM) -> list[Benchmark]:
    """The benchmarks without what the model cannot take; those of which nothing is left are named and left out."""
    found = []
    for benchmark in benchmarks:
        kept = [r for r in benchmark.requests if mllm.takes_images or r.image is None]
        if len(kept) < len(benchmark.requests):
            say(f"{benchmark.name}: {len(benchmark.requests) - len(kept)} requests show an image, which {mllm.name} does not take")
        if kept:
            found.append(replace(benchmark, requests=kept))
    if not found:
        raise InputError(f"no benchmark has a request that {mllm.name} can take; it takes text only.")
    return found


def seeds_of(text: str) -> tuple[int, ...]:
    """ "0-2,7" as seeds, each once. Raises UsageError for what is no list of whole numbers."""
    from safesteer_interp.sites import parse_ranges

    found = [str(word) for word in parse_ranges(text)]
    if not found or not all(word.isascii() and word.isdigit() for word in found):
        raise UsageError(f'--seeds "{text}" is no list of whole numbers; write for example --seeds 0-2.')
    return tuple(dict.fromkeys(map(int, found)))


def training_requests(asked: Compare, mllm: MLLM, name: str) -> list[Request]:
    """What trained methods are fitted on. Raises InputError where the data set has nothing that this model can be fitted on."""
    from safesteer_interp.tracing.spec import TraceSpec, pick

    requests = choose_requests(name, data_root=asked.data_root)
    kept = [r for r in requests if r.split in (Split.FIT, Split.VALIDATION) and (mllm.takes_images or r.image is None)]
    if not kept:
        raise InputError(f'data set "{name}" has no training request this model can take; give another with --training.')
    return pick(kept, TraceSpec(pairs=asked.training_pairs or None))


@dataclass
class Work:
    """One comparison: model, requests, methods and judges."""

    asked: Compare
    mllm: MLLM
    given: Sequence[Benchmark]
    judges: Sequence[Judge]
    chosen: dict[str, Choice]
    least: int = 2
    """Methods that are worth answering for."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Method that this model or its training requests cannot have -> why."""

    def __post_init__(self) -> None:
        from safesteer_interp.tracing.spec import TraceSpec, pick

        self.seeds = seeds_of(self.asked.seeds)
        sampling = Sampling(self.asked.max_new_tokens, self.asked.temperature)
        self.settings = Settings(sampling, batch_size=self.asked.batch_size)
        if isinstance(self.mllm, ServedMLLM):
            self._leave_out_white_boxes()
        for choice in self.chosen.values():
            choice.check(self.settings, None if isinstance(self.mllm, ServedMLLM) else self.mllm)
        self.training = self.asked.training or self.mllm.usual_dataset
        self.benchmarks = []
        for benchmark in self.given:
            # Trained methods have seen the other parts of the data they are fitted on; of all other data nothing was seen.
            seen = benchmark.name.partition(":")[0] == self.training.partition(":")[0]
            requests = [r if seen else replace(r, split=Split.TEST) for r in benchmark.requests]
            requests = pick([r for r in requests if r.split is Split.TEST], TraceSpec(pairs=self.asked.pairs))
            if not requests:
                raise InputError(
                    f'"{benchmark.name}" has no request of the test split, and its others are what trained methods are fitted on.'
                )
            self.benchmarks.append(replace(benchmark, requests=requests))
        check_judges(self.benchmarks, self.judges)

    def _leave_out_white_boxes(self) -> None:
        """Of a model behind a server only what reads and writes text can be had; what was asked for by name besides is an error."""
        for name, choice in list(self.chosen.items()):
            if all(is_black_box(part.cls) and (not part.cls.trained or part.options.get("detector")) for part in choice.parts):
                continue
            why = f"{name} needs states or logits of the model (or is fitted on them), which a server does not give"
            if name in self.asked.defenses:
                raise UsageError(f"{why}; load the model without --endpoint, or leave it out.")
            say(f"left out: {why}")
            del self.chosen[name]

    def methods(self) -> dict[str, Defense]:
        """Every method ready to answer; one that this model cannot have is named and left out, unless it was asked for by name."""
        found: dict[str, Defense] = {}
        fit: list[Request] | None = None
        for name, choice in self.chosen.items():
            if choice.trained and fit is None and not isinstance(self.mllm, ServedMLLM):
                fit = training_requests(self.asked, self.mllm, self.training)
                say(f'fitting on {len(fit)} requests of "{self.training}"; what is read is kept')
            try:
                found[name] = choice.build(self.mllm, fit or ())
                guard = getattr(found[name], "guard", None)
                if guard is not None:
                    guard(self.mllm)
            except SafeSteerError as cause:
                if "all" not in self.asked.defenses or (isinstance(cause, UsageError) and name in self.asked.defenses):
                    raise
                found.pop(name, None)
                self.left_out[name] = str(cause)
                say(f"left out: {name} ({cause})")
        return found

    def results(self) -> Results:
        """Answered, judged and counted. Stops where it is killed, and resumes."""
        methods = self.methods()
        if len(methods) < self.least:
            raise NotApplicableError("nothing is left to compare: give two methods or more that this model can have.")
        answers = answer_benchmarks(
            self.mllm, methods, self.benchmarks, seeds=self.seeds, settings=self.settings, told=lambda table: self._tell(table)
        )
        comparison = judge_answers(answers, self.benchmarks, self.judges)
        counted = None
        if self.asked.cost_sample and not isinstance(self.mllm, ServedMLLM):
            counted = costs(self.mllm, methods, self._cost_sample(), settings=self.settings)
        descriptions = {name: defense.description() for name, defense in methods.items()}
        return Results.of(self.mllm.name, comparison, self.benchmarks, counted, descriptions)

    def _cost_sample(self) -> list[Request]:
        """As many requests as --cost-sample asks for (all, where there are fewer), spread evenly over the benchmarks."""
        requests = [r for b in self.benchmarks for r in b.requests]
        return requests[:: max(1, len(requests) // self.asked.cost_sample)][: self.asked.cost_sample]

    def _tell(self, answers: pd.DataFrame) -> None:
        """A line per finished benchmark: how much each method did not refuse of the harmful, and refused of the harmless."""
        from safesteer_interp.evaluation.harness import judged

        table = judged(answers)
        shown = []
        for method, part in table.groupby("method", sort=False):
            sides = [part[part["harmful"]]["outcome"] == "comply", part[~part["harmful"]]["outcome"] == "refuse"]
            shown.append(f"{method} {' / '.join('–' if side.empty else f'{side.mean():.0%}' for side in sides)}")
        name = table["benchmark"].iloc[0]
        print(f"{name} (not refused of harmful / refused of harmless): {', '.join(shown)}", file=sys.stderr, flush=True)

    @property
    def per_method(self) -> int:
        """Answers of one method."""
        return sum(len(b.requests) for b in self.benchmarks) * len(self.seeds)

    def _ready(self) -> dict[str, Defense]:
        """The methods that need no fit."""
        return {name: choice.build(self.mllm) for name, choice in self.chosen.items() if not choice.trained}

    def missing(self) -> dict[str, int]:
        """Answers of each method that are not stored; of one that is fitted first they are not looked up."""
        from safesteer_interp.evaluation.comparison import stored_answers

        stored = {
            name: sum(stored_answers(self.mllm, d, b.requests, self.seeds, self.settings) for b in self.benchmarks)
            for name, d in self._ready().items()
        }
        return {name: self.per_method - stored.get(name, 0) for name in self.chosen}

    def plan(self) -> dict[str, Any]:
        """Answers, tokens, verdicts and minutes still to come. Trained methods are not fitted for it: their answers count as missing."""
        ready, missing = self._ready(), self.missing()
        harmful = sum(r.harmful for b in self.benchmarks for r in b.requests) * len(self.seeds) * len(self.chosen)
        seconds, factors = (math.nan, dict[str, float]()) if isinstance(self.mllm, ServedMLLM) else self._seconds(ready)
        notes = [f"{name} is fitted first; its answers are not looked up" for name, choice in self.chosen.items() if choice.trained]
        work = sum(missing[name] * factors.get(name, 1.2) for name in missing)
        return {
            "model": self.mllm.name,
            "methods": list(self.chosen),
            "requests": {b.name: len(b.requests) for b in self.benchmarks},
            "answers": self.per_method * len(self.chosen),
            "stored": self.per_method * len(self.chosen) - sum(missing.values()),
            "tokens": sum(missing.values()) * self.asked.max_new_tokens,
            "verdicts": harmful * sum(judge.costly for judge in self.judges),
            "minutes": work * seconds / 60,
            "notes": notes,
        }

    def _seconds(self, ready: dict[str, Defense]) -> tuple[float, dict[str, float]]:
        """Seconds of one undefended answer of full length in a full batch, and how many times as much reading each method does."""
        requests = [r for b in self.benchmarks for r in b.requests]
        some = (requests * self.asked.batch_size)[: min(self.asked.batch_size, 16)]
        spent = []
        for tokens in (2, 10):
            timed = replace(self.settings, sampling=replace(self.settings.sampling, max_new_tokens=tokens), stop=False)
            started = time.perf_counter()
            ready["none"].respond(self.mllm, some, timed)
            spent.append(time.perf_counter() - started)
        each = max(spent[1] - spent[0], 1e-6) / 8
        seconds = (spent[0] + each * (self.asked.max_new_tokens - 2)) / len(some)
        brief = replace(self.settings, sampling=replace(self.settings.sampling, max_new_tokens=8))
        found = costs(self.mllm, ready, requests[:2], settings=brief).set_index("method")
        return seconds, (found["forwards"] / found["forwards"].iloc[0]).to_dict()


def print_results(results: Results) -> None:
    """Table 1 under the first judge, then what every judge says, the orders that hold, and the costs, on stdout."""
    for title, table in results.printed().items():
        rows = [[harmless_on_a_terminal(str(cell)) for cell in row] for row in table.itertuples(index=False)]
        emit_table([str(column) for column in table.columns], rows, title=title)
