"""How fast an evaluation answers, part by part, and what each part of the way it is done now gains over the way it was done before.

    python benchmarks/answering.py [--model mini] [--requests 96] [--batch 96] [--tokens 128] [--seeds 2]
                                   [--dtypes float32,bfloat16] [--out benchmarks/answering.json]

In one run, per number format: seconds to read the prompts of image requests; tokens a second of a full batch whose rows never end; an
evaluation of plain and one of guided conditions that answer different parts of the requests, with its share of the full batch's rate (a
guided step reads K tokens for the one it writes; tokens *read* are compared); and all conditions in one call, as the analyses make them,
where only one stream runs empty. `before`: the same evaluation in
float32, one batch drained after the other, where a batch's prompts are remembered only if one earlier batch held all of them. Gains are
ratios of answers a second, prompts included. The agreement of the formats is over the same requests and random numbers: answers equal
in every token, answers with the same outcome, and the difference of refusal rates with its interval over pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from safesteer_interp.datasets import load_bundled
from safesteer_interp.decoding.answering import answer_asks, generate
from safesteer_interp.decoding.loop import Decoded
from safesteer_interp.decoding.policies import PLAIN, Candidates, Choice, Guided, Opening, Policy
from safesteer_interp.decoding.prefix import Prefix, prefill
from safesteer_interp.decoding.prompt_cache import PromptMemory, Reading, read_prompts, remembering_prompts
from safesteer_interp.decoding.sharing import Ask, batches_of, by_length
from safesteer_interp.models import load_model
from safesteer_interp.models.casting import in_dtype
from safesteer_interp.models.dtypes import multiplies_bfloat16
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.refusals import is_refusal
from safesteer_interp.requests import Request
from safesteer_interp.statistics import cluster_mean
from safesteer_interp.tracing.tracer import Sampling
from safesteer_interp.types import States

ROOT = Path(__file__).resolve().parents[1]
FULL_STEPS = 24
"""Tokens of the full batch's rate."""
MEMORY = 8 << 30
READING = 32
"""Prompts read together."""


@dataclass(frozen=True)
class ByProbability:
    """Scores candidates by the model's own probability: guided work, ordinary answers."""

    name: str = "probability"

    def scores(self, candidates: Candidates) -> torch.Tensor:
        return candidates.log_probs


def unmoved(states: States) -> Opening:
    """A rule about the prompt that changes nothing: a condition of its own with ordinary answers."""
    return Opening(states, torch.zeros(len(states), dtype=torch.bool), [{} for _ in states])


def conditions(requests: Sequence[Request], seeds: int) -> dict[str, list[Ask]]:
    """Kind -> asks: two conditions each, the second on a part of the requests, as where a defense acts on some or only harm is asked."""
    harmful = [r for r in requests if r.harmful]
    some = requests[: 2 * len(requests) // 3]
    ways: dict[str, list[tuple[Policy, Sequence[Request]]]] = {
        "plain": [(PLAIN, requests), (Guided(ByProbability(), k=1, steps=0, opening=unmoved), harmful)],
        "guided": [
            (Guided(ByProbability(), k=5, steps=5), requests),
            (Guided(ByProbability(), k=5, steps=5, choice=Choice(beta=1.0)), some),
        ],
    }
    return {kind: [Ask(r, seed, policy) for policy, asked in each for seed in range(seeds) for r in asked] for kind, each in ways.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--requests", type=int, default=96, help="bundled requests with pictures")
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--seeds", type=int, default=2, help="samples of each request")
    parser.add_argument("--dtypes", default="float32,bfloat16" if multiplies_bfloat16() else "float32", help="the first must be float32")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "answering.json")
    chosen = parser.parse_args(arguments)
    if not chosen.dtypes.startswith("float32"):
        parser.error("--dtypes begins with float32, which the others are compared with.")
    requests = pictures(chosen.requests)
    record = measure(load_model(chosen.model), requests, chosen)
    chosen.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    show(record)
    return 0


def pictures(n: int) -> list[Request]:
    """Bundled requests with pictures, whole pairs of every form, spread over the data set."""
    together: dict[tuple[str, str], list[Request]] = {}
    for request in load_bundled():
        if request.image is not None:
            together.setdefault((request.pair, str(request.attack)), []).append(request)
    groups = [group for group in together.values() if len(group) == 2]
    return [request for group in groups[:: max(1, 2 * len(groups) // n)] for request in group][:n]


def measure(loaded: MLLM, requests: list[Request], chosen: argparse.Namespace) -> dict[str, Any]:
    """All parts in every format, and what is compared between them."""
    sampling = Sampling(chosen.tokens, 1.0)
    asks = conditions(requests, chosen.seeds)
    record: dict[str, Any] = {
        "model": loaded.name,
        "requests": len(requests),
        "answers": sum(map(len, asks.values())),
        "batch": chosen.batch,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "bfloat16": multiplies_bfloat16(),
            "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        },
        "formats": {},
        "agreement": {},
    }
    before: list[Decoded] = []
    taken = seconds(lambda: before.extend(drained(loaded, [ask for own in asks.values() for ask in own], sampling, chosen.batch)))
    record["before"] = {"seconds": taken, "answers_per_second": record["answers"] / taken}
    said: dict[str, list[Decoded]] = {"before": before}
    for dtype in chosen.dtypes.split(","):
        part, said[dtype] = parts(in_dtype(loaded, dtype), requests, asks, sampling, chosen.batch)
        record["formats"][dtype] = part | {"gain_over_before": part["answers_per_second"] / record["before"]["answers_per_second"]}
    clusters = np.array([ask.request.pair for own in asks.values() for ask in own])
    for dtype in ("before", *chosen.dtypes.split(",")[1:]):
        record["agreement"][f"{dtype} with float32"] = agreement(said[dtype], said["float32"], clusters)
    return record


def parts(
    mllm: MLLM, requests: list[Request], asks: dict[str, list[Ask]], sampling: Sampling, batch: int
) -> tuple[dict[str, Any], list[Decoded]]:
    """One format: prompts, full batch, and each kind of condition; also the answers."""
    generate(mllm, requests[:4], PLAIN, Sampling(4, 1.0))  # whatever happens only once
    found: dict[str, Any] = {}
    said: list[Decoded] = []
    with remembering_prompts(mllm, limit=MEMORY):
        reads = [[requests[i] for i in places] for places in by_length(requests, READING)]
        found["prompts_seconds"] = seconds(lambda: [read_prompts(mllm, mllm.encode(some)) for some in reads])
        full = requests[:batch]
        generate(mllm, full, PLAIN, Sampling(2, 1.0), batch_size=batch, stop=False)
        taken = seconds(lambda: generate(mllm, full, PLAIN, Sampling(FULL_STEPS, 1.0), batch_size=batch, stop=False))
        found["full_batch_tokens_per_second"] = rate = len(full) * FULL_STEPS / taken
        for kind, own in asks.items():
            answers: list[Decoded] = []
            taken = seconds(lambda own=own, answers=answers: answers.extend(together(mllm, own, sampling, batch)))  # type: ignore[misc]
            lengths = [len(answer.ids) for answer in answers]
            read = sum(n + (a.policy.k - 1) * min(a.policy.steps, n) for a, n in zip(own, lengths, strict=True))
            found[kind] = {
                "answers": len(own),
                "seconds": taken,
                "tokens_mean": statistics.mean(lengths),
                "tokens_longest": max(lengths),
                "tokens_read_per_second": read / taken,
                "of_full_batch": read / taken / rate,
            }
            said += answers
        everything = [ask for own in asks.values() for ask in own]
        found["together_seconds"] = taken = seconds(lambda: together(mllm, everything, sampling, batch))
        found["of_full_batch"] = sum(found[kind]["tokens_read_per_second"] * found[kind]["seconds"] for kind in asks) / taken / rate
    found["answers_per_second"] = len(said) / (found["prompts_seconds"] + found["together_seconds"])
    return found, said


def together(mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, batch: int) -> list[Decoded]:
    """Answers in order, as the harness makes them."""
    found: dict[int, Decoded] = {}
    for places, answers in answer_asks(mllm, asks, sampling, batch_size=batch):
        found.update(zip(places, answers, strict=True))
    return [found[i] for i in range(len(asks))]


class BatchMemory(PromptMemory):
    """The memory as it was: a batch is taken from it only where one earlier batch held all of its prompts."""

    def read(self, mllm: MLLM, batch: Encoded) -> tuple[Prefix, States]:
        keys = [request.key() for request in batch.requests]
        for reading in self.readings:
            if all(key in reading.rows for key in keys):
                return reading.take(torch.tensor([reading.rows[key] for key in keys]))
        prefix, states = prefill(mllm.model, batch.inputs)
        self.readings.append(Reading({key: row for row, key in enumerate(keys)}, prefix, states))
        return self.readings[-1].take(torch.arange(len(keys)))


def drained(mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, batch: int) -> list[Decoded]:
    """Answers in order, as they were made before: the batches of all conditions one by one, each until its last row has ended."""
    found: dict[int, Decoded] = {}
    mllm.prompts = BatchMemory(MEMORY)
    try:
        for places in batches_of(asks, batch):
            found.update(zip(places, together(mllm, [asks[i] for i in places], sampling, len(places)), strict=True))
    finally:
        mllm.prompts = None
    return [found[i] for i in range(len(asks))]


def agreement(ours: Sequence[Decoded], theirs: Sequence[Decoded], pairs: np.ndarray) -> dict[str, Any]:
    """Shares of equal answers and of equal outcomes, and the difference of refusal rates with its interval over pairs."""
    refused = [np.array([is_refusal(answer.text) for answer in side], dtype=float) for side in (ours, theirs)]
    difference = cluster_mean(refused[0] - refused[1], pairs, seed=0)
    return {
        "same_tokens": float(np.mean([a.ids == b.ids for a, b in zip(ours, theirs, strict=True)])),
        "same_outcome": float((refused[0] == refused[1]).mean()),
        "refused": [float(side.mean()) for side in refused],
        "difference": {
            "value": difference.value,
            "low": _finite(difference.low),
            "high": _finite(difference.high),
            "pairs": len(set(pairs)),
        },
    }


def _finite(edge: float) -> float | None:
    """JSON has no NaN: the interval of a difference that is the same in every pair."""
    return edge if math.isfinite(edge) else None


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    with torch.no_grad():
        run()
    return time.perf_counter() - begun


def show(record: dict[str, Any]) -> None:
    """The record as tables on stdout."""
    heading = f"{record['model']}, {record['requests']} requests with pictures, {record['answers']} answers, {record['machine']}"
    table = Table("", *record["formats"], title=heading)
    rows: list[tuple[str, ...]] = [("prompts_seconds",), ("full_batch_tokens_per_second",)]
    rows += [(kind, part) for kind in ("plain", "guided") for part in ("tokens_mean", "tokens_read_per_second", "of_full_batch")]
    rows += [("of_full_batch",), ("together_seconds",), ("answers_per_second",), ("gain_over_before",)]
    for path in rows:
        found: list[Any] = list(record["formats"].values())
        for step in path:
            found = [part[step] for part in found]
        table.add_row(", ".join(path).replace("_", " "), *(f"{value:.2f}" for value in found))
    console = Console()
    console.print(table)
    console.print(f"before: {record['before']['answers_per_second']:.2f} answers a second")
    for name, part in record["agreement"].items():
        gap = part["difference"]
        interval = ", no pair differs" if gap["low"] is None else f" [{gap['low']:+.3f}, {gap['high']:+.3f}]"
        console.print(
            f"{name}: {part['same_tokens']:.0%} of answers equal in every token, {part['same_outcome']:.1%} in outcome; refused "
            f"{part['refused'][0]:.3f} against {part['refused'][1]:.3f}, "
            f"difference {gap['value']:+.3f}{interval}"
        )


if __name__ == "__main__":
    sys.exit(main())
