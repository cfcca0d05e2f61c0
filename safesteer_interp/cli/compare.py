"""`safesteer compare`: defenses x benchmarks x seeds on one model, judged by a panel, as Table 1 with its ranking and its costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from safesteer_interp.cli.command import emit_json, parse, say
from safesteer_interp.cli.loading import Loading, LoadingFlags
from safesteer_interp.errors import UsageError

if TYPE_CHECKING:
    from safesteer_interp.cli.comparing import Work
    from safesteer_interp.models.mllm import MLLM


@dataclass(frozen=True)
class Compare:
    """Compare defenses on a model of yours: what each lets through, what it refuses of the harmless, what it costs.

    Answers and verdicts are kept as they come: the same command goes on where it was stopped. Every rate is shown under every judge, and
    an order of two methods only where all judges agree on it. Results, in OUT/<model>/: rates.csv, ranking.csv, orders.csv,
    agreement.csv, plane.csv, costs.csv, answers.jsonl (every answer, whole: handle with care) and answers.html to look through them.
    """

    model: str = "mini"
    """"mini", "planted", a folder or a hub id."""
    defenses: tuple[str, ...] = ("all",)
    """"all", or names with options: none coca:alpha=2 adashield+safesteer file.py:Class."""
    endpoint: str = ""
    """Ask the model named --model at this OpenAI-compatible server (http://host:8000/v1) instead of loading it; only defenses that need
    neither states nor logits can then be compared. The key is read from OPENAI_API_KEY."""
    benchmarks: tuple[str, ...] = ("bundled", "utility")
    """"all" that the data root holds, or data sets with options: bundled utility figstep:tiny mm_safetybench:tiny,attacks=CB+TYPO."""
    data_root: Path | None = None
    """Folder with public benchmarks; default: $SAFESTEER_DATA."""
    judges: tuple[str, ...] = ("refusal_strings", "refusal_strings:strings=xstest", "refusal_strings:strings=arditi",
                               "refusal_strings:strings=vlguard")  # fmt: skip
    """The panel, e.g. refusal_strings llama_guard endpoint:model=NAME,url=http://localhost:8000/v1 (`safesteer list judges`)."""
    seeds: str = "0-2"
    """Samples of every answer, e.g. 0-2."""
    pairs: int | None = None
    """At most so many pairs (requests, where they have no twin) of each benchmark, spread evenly over scenarios; default: all."""
    attacks: tuple[str, ...] = ()
    """Only these attacks (harmless requests of no attack stay), e.g. --attacks SD TYPO; default: all."""
    training: str = ""
    """Data set that trained defenses are fitted on; default: the bundled benchmark (planted for the planted model)."""
    training_pairs: int = 32
    """Fit on so many pairs; 0: all."""
    max_new_tokens: int = 128
    """Longest answer, in tokens; 128 as in arXiv 2605.11716."""
    temperature: float = 1.0
    """Of ordinary sampling; 0: greedy."""
    batch_size: int = 64
    """Answers written at a time."""
    cost_sample: int = 8
    """Requests that the cost of each method is counted on; 0: not counted."""
    out: Path = Path("comparison")
    """Folder of the results."""
    store: Path | None = None
    """Folder of the traces that methods are fitted on; answers, verdicts and candidates go beside it; default: "traces" in the user
    cache."""
    system_prompt: str | None = None
    """System turn of every request, for all methods alike; default: as the chat template has it."""
    show_answers: bool = False
    """In answers.html, show whole answers that comply with harmful requests; otherwise their first words."""
    dry_run: bool = False
    """Print how many answers, tokens and verdicts are missing and about how long they take, and stop."""
    json: bool = False
    """Print the results as JSON on stdout."""
    loading: LoadingFlags = field(default_factory=Loading)

    def run(self) -> int:
        """Answers, judges, writes and prints; or prints the plan."""
        self._check()
        from safesteer_interp.cli import comparing
        from safesteer_interp.evaluation.judge import judge_named
        from safesteer_interp.paths import storing_in

        comparing.seeds_of(self.seeds)
        judges = [judge_named(text) for text in self.judges]
        chosen = comparing.choices(self.defenses)
        benchmarks = comparing.load_benchmarks(self)
        from safesteer_interp.models import load_model

        if self.endpoint:
            from safesteer_interp.models.served import ServedMLLM
            from safesteer_interp.served import Server

            mllm: MLLM = ServedMLLM(Server(self.endpoint, self.model), system_prompt=self.system_prompt)
        else:
            mllm = load_model(self.model, system_prompt=self.system_prompt, **self.loading.arguments())
        work = comparing.Work(self, mllm, comparing.fitting(benchmarks, mllm), judges, chosen)
        with storing_in(self.store):
            return self._plan(work) if self.dry_run else self._compare(work)

    def _check(self) -> None:
        for name, least in (("max_new_tokens", 1), ("training_pairs", 0), ("batch_size", 1), ("cost_sample", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)} is not possible; give {least} or more.")
        if self.pairs is not None and self.pairs < 1:
            raise UsageError(f"--pairs {self.pairs} leaves nothing; give 1 or more.")
        if self.temperature < 0:
            raise UsageError(f"--temperature {self.temperature} is not possible; give 0 (greedy) or more.")

    def _plan(self, work: Work) -> int:
        planned = work.plan()
        if self.json:
            emit_json(planned)
            return 0
        for name, count in planned["requests"].items():
            print(f"{name}: {count} requests")
        print(
            f"{planned['answers']} answers of {len(planned['methods'])} methods, {planned['stored']} stored already; at most "
            f"{planned['tokens']} tokens to write, {planned['verdicts']} verdicts to ask for"
            + ("" if math.isnan(planned["minutes"]) else f"; about {planned['minutes']:.1f} minutes here")
        )
        for note in planned["notes"]:
            say(note)
        return 0

    def _compare(self, work: Work) -> int:
        from safesteer_interp.cli.comparing import print_results
        from safesteer_interp.report.answers import write_answers
        from safesteer_interp.runner.folders import model_label, thinking_label

        results, mllm = work.results(), work.mllm
        folder = results.save(self.out, model_label(mllm.name, mllm.source, mllm.fingerprint) + thinking_label(mllm.thinking))
        title = f"Answers of {results.model}"
        write_answers(results.answer_rows(), folder / "answers.html", title=title, show_answers=self.show_answers)
        if self.json:
            emit_json(results.record())
        else:
            print_results(results)
            say(f"written to {folder}")
        return 0


def main(arguments: Sequence[str]) -> int:
    """Entry point of the command."""
    return parse(Compare, "compare", arguments).run()
