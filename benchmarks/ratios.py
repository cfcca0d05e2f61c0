"""The ratios that issue and documentation promise, measured in one run and printed together: tracing, split models, guided answers.

    python benchmarks/ratios.py [--model language] [--answers mini] [--rounds 5] [--batch 32] [--tokens 128] [--out benchmarks/ratios.json]

Each ratio is the median over rounds of two times within one round, in turn, so that a busy machine slows both alike: hooks and nnsight
beside a bare forward, a trace of a model with half its layers on disk beside that of the whole one, and answers under SafeSteer beside
undefended ones (tokens per second). Exit code 1 when a limit is passed.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
import tyro
from trace_overhead import bare, batch_of, captures

from safesteer_interp.datasets import load_requests
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.defenses.presets import named_settings
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.evaluation.throughput import throughput
from safesteer_interp.models import MLLM, load_model
from safesteer_interp.models.mini.language import language_dir
from safesteer_interp.requests import Attack, Split, select
from safesteer_interp.tracing.tracer import Sampling

LIMITS: Mapping[str, tuple[str, float]] = {
    "hooks": ("at most", 1.02),
    "nnsight": ("at most", 1.05),
    "half on disk": ("at most", 1.10),
    "guided answers": ("at least", 0.97),
}
"""What is promised of each: times of the other, or for answers the share of its speed."""


OUT = Path(__file__).with_name("ratios.json")


@dataclass(frozen=True)
class Ratios:
    """Measure what is promised."""

    model: str = "language"
    """That traces are measured on: "language" (of mini), or anything load_model takes from a folder."""
    answers: str = "mini"
    """That answers are measured on."""
    rounds: int = 5
    batch: int = 32
    """Requests of a trace."""
    words: int = 36
    """Words of each."""
    answer_batch: int = 8
    tokens: int = 128
    """Of an answer; five of them are guided."""
    out: Path = OUT

    def run(self) -> int:
        """Measures, writes the record, prints it; returns the exit code."""
        load = os.getloadavg()[0]
        found = {**self.traces(), "guided answers": self.guided()}
        over = [name for name, (word, limit) in LIMITS.items() if (found[name]["ratio"] > limit) == (word == "at most")]
        machine = {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "cores": os.cpu_count()}
        record = {"machine": machine, "load_before": load, "shared": load > 0.5, "torch": torch.__version__,
                  "transformers": transformers.__version__, "model": self.model, "answers": self.answers, "rounds": self.rounds,
                  "batch": self.batch, "tokens": self.tokens, "ratios": found, "over": over}  # fmt: skip
        self.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for name, (word, limit) in LIMITS.items():
            row = found[name]
            print(f"{name}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}], {word} {limit}{'  MISSED' if name in over else ''}")
        return 1 if over else 0

    def traces(self) -> dict[str, dict[str, float]]:
        """Tracers beside a bare forward, and the split model's trace beside the whole one's, all in turn."""
        folder = language_dir() if self.model == "language" else Path(self.model)
        whole = load_model(str(folder))
        with TemporaryDirectory() as offload:
            split = load_model(str(folder), device_map=halved(whole), offload=Path(offload))
            batch = batch_of(whole, self.batch, self.words)
            runs: dict[str, Callable[[], object]] = {
                "bare": partial(bare(whole), batch),
                "hooks": partial(captures(whole, "hooks"), batch),
                "nnsight": partial(captures(whole, "nnsight"), batch),
                "half on disk": partial(captures(split, "hooks"), batch),
            }
            times = in_turn(runs, self.rounds)
        floors = {"hooks": "bare", "nnsight": "bare", "half on disk": "hooks"}
        return {name: spread([a / b for a, b in zip(times[name], times[floor], strict=True)]) for name, floor in floors.items()}

    def guided(self) -> dict[str, float]:
        """Tokens per second of whole answers under SafeSteer (corrected, K = 5, five steps, every request), as a share of undefended."""
        mllm = load_model(self.answers)
        requests = load_requests(mllm.usual_dataset)
        fit = select(requests, attacks=[Attack.CB, Attack.SD], split=Split.FIT)[:32]
        some = select(requests, attacks=[Attack.SD], split=Split.TEST)[: self.answer_batch]
        options = {"progress": False, "store": None, "batch_size": 16}
        steered = SafeSteer.fit(mllm, fit, tracing=options, force=True, **named_settings("corrected"))
        settings = Settings(Sampling(self.tokens, 1.0), batch_size=self.answer_batch)
        table = throughput(mllm, {"none": Undefended(), "safesteer": steered}, some, settings=settings, repeats=self.rounds)
        row = table.set_index("defense").loc["safesteer"]
        return {"ratio": float(row["ratio"]), "low": float(row["ratio_low"]), "high": float(row["ratio_high"])}


def halved(mllm: MLLM) -> dict[str, str]:
    """The first half of the layers and everything else in memory, the other half on disk."""
    places: dict[str, str] = {}
    layers = mllm.layout.layers
    for name, _ in (*mllm.model.named_parameters(remove_duplicate=False), *mllm.model.named_buffers()):
        if name.startswith(f"{layers}."):
            number = int(name[len(layers) + 1 :].split(".")[0])
            places[f"{layers}.{number}"] = "disk" if number >= mllm.n_layers // 2 else "cpu"
        else:
            places[name.rpartition(".")[0] if name.count(".") > 1 else name] = "cpu"
    return places


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run in every round, one round to warm up; the order rotates."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for number in range(rounds + 1):
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            begun = time.perf_counter()
            runs[name]()
            if number:
                times[name].append(time.perf_counter() - begun)
    return times


def spread(ratios: list[float]) -> dict[str, Any]:
    """Median, smallest and largest."""
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    return tyro.cli(Ratios, args=None if arguments is None else list(arguments)).run()


if __name__ == "__main__":
    sys.exit(main())
