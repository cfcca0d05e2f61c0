"""How fast an evaluation answers: reading prompts, a full batch's step, whole answers, and what keeping the batch full gains.

    python benchmarks/answering.py [--model mini] [--requests 96] [--batch 32] [--tokens 128] [--seeds 3] [--rounds 1]
                                   [--dtypes float32,bfloat16] [--out benchmarks/answering.json]

Parts, per dtype: seconds to read the prompts of image requests; tokens a second of a full batch whose rows never end; whole sampled
answers, plain and guided, `batch by batch` (each batch drains before the next is begun) and `refilled` (as `generate` does), once with
the prompts read beforehand (rate, and its share of the full batch's) and once with everything (answers a second). Both ways take turns
within a round, and ratios are medians over rounds, so that a busy machine slows both alike. The last part repeats whole answers over
several seeds, which is what an evaluation of an analysis asks for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from safesteer_interp.datasets import load_bundled
from safesteer_interp.decoding.answering import answer_asks, generate
from safesteer_interp.decoding.policies import PLAIN, Candidates, Guided, Policy
from safesteer_interp.decoding.prompt_cache import read_prompts, remembering_prompts
from safesteer_interp.decoding.sharing import Ask, by_length
from safesteer_interp.models import load_model
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.tracer import Sampling

ROOT = Path(__file__).resolve().parents[1]
FULL_STEPS = 24
"""Tokens of the full batch's rate."""
WAYS = ("batch by batch", "refilled")


@dataclass(frozen=True)
class ByProbability:
    """Scores candidates by the model's own probability: guided work, ordinary answers."""

    name: str = "probability"

    def scores(self, candidates: Candidates) -> torch.Tensor:
        return candidates.log_probs


POLICIES: dict[str, Policy] = {"plain": PLAIN, "guided": Guided(ByProbability(), k=5, steps=5)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--requests", type=int, default=96, help="bundled requests with pictures")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="longest answer")
    parser.add_argument("--seeds", type=int, default=3, help="samples of each request in the evaluation")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtypes", default="float32,bfloat16" if has_bfloat16() else "float32")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "answering.json")
    chosen = parser.parse_args(arguments)
    requests = pictures(chosen.requests)
    record: dict[str, Any] = {
        "model": chosen.model,
        "requests": len(requests),
        "batch": chosen.batch,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "bfloat16": has_bfloat16(),
        },
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "parts": {},
    }
    for dtype in chosen.dtypes.split(","):
        mllm = load_model(chosen.model, dtype=dtype)
        record["parts"][dtype] = parts(mllm, requests, chosen)
    chosen.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    show(record)
    return 0


def has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def pictures(n: int) -> list[Request]:
    """Bundled requests with pictures, spread over the data set."""
    found = [request for request in load_bundled() if request.image is not None]
    return found[:: max(1, len(found) // n)][:n]


def parts(mllm: MLLM, requests: list[Request], chosen: argparse.Namespace) -> dict[str, Any]:
    """All parts for one model."""
    sampling, batch, rounds = Sampling(chosen.tokens, 1.0), chosen.batch, chosen.rounds
    generate(mllm, requests[:4], PLAIN, Sampling(4, 1.0))  # whatever happens only once
    batches = list(by_length(requests, batch))
    found: dict[str, Any] = {}
    with remembering_prompts(mllm, limit=8 << 30):
        found["prompts_seconds"] = seconds(lambda: [read_prompts(mllm, mllm.encode([requests[i] for i in b])) for b in batches])
        full = [requests[i] for i in batches[0]]
        found["full_batch_tokens_per_second"] = (
            len(full) * FULL_STEPS / seconds(lambda: generate(mllm, full, PLAIN, Sampling(FULL_STEPS, 1.0), batch_size=batch, stop=False))
        )
        for name, policy in POLICIES.items():
            found[name] = answers(mllm, [Ask(r, 0, policy) for r in requests], sampling, batch, rounds)
            found[name]["of_full_batch"] = {
                way: speed / found["full_batch_tokens_per_second"] for way, speed in found[name]["tokens_per_second"].items()
            }
    asks = [Ask(r, seed, policy) for policy in POLICIES.values() for seed in range(chosen.seeds) for r in requests]
    found["evaluation"] = whole(mllm, asks, sampling, batch, rounds)
    return found


def ways(mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, batch: int) -> dict[str, Callable[[], list[list[int]]]]:
    """Both ways of answering, each returning the answers' tokens."""

    def refilled(some: Sequence[Ask] = asks) -> list[list[int]]:
        answered: dict[int, list[int]] = {}
        for places, answers in answer_asks(mllm, some, sampling, batch_size=batch):
            answered.update(zip(places, (a.ids for a in answers), strict=True))
        return [answered[i] for i in range(len(some))]

    def drained() -> list[list[int]]:
        answered: dict[int, list[int]] = {}
        for policy in {id(ask.policy): ask.policy for ask in asks}.values():
            own = [i for i, ask in enumerate(asks) if ask.policy is policy]
            for places in by_length([asks[i].request for i in own], batch):
                batch_of = [own[p] for p in places]
                answered.update(zip(batch_of, refilled([asks[i] for i in batch_of]), strict=True))
        return [answered[i] for i in range(len(asks))]

    return dict(zip(WAYS, (drained, refilled), strict=True))


def answers(mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, batch: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of whole answers whose prompts have been read, both ways, and their ratio."""
    taken: dict[str, list[float]] = {}
    said: dict[str, list[list[int]]] = {}
    for _ in range(rounds):
        for name, run in ways(mllm, asks, sampling, batch).items():
            begun = time.perf_counter()
            said[name] = run()
            taken.setdefault(name, []).append(time.perf_counter() - begun)
    lengths = [len(answer) for answer in said["refilled"]]
    return {
        "tokens": {"mean": statistics.mean(lengths), "longest": max(lengths)},
        "same_answers": statistics.mean(a == b for a, b in zip(*said.values(), strict=True)),
        "tokens_per_second": {name: sum(lengths) / statistics.median(seconds) for name, seconds in taken.items()},
        "gain": statistics.median(a / b for a, b in zip(*taken.values(), strict=True)),
    }


def whole(mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, batch: int, rounds: int) -> dict[str, Any]:
    """Answers a second of an evaluation over seeds and policies, prompts included, both ways."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in ways(mllm, asks, sampling, batch).items():
            with remembering_prompts(mllm):
                taken.setdefault(name, []).append(seconds(run))
    return {
        "answers": len(asks),
        "answers_per_second": {name: len(asks) / statistics.median(seconds) for name, seconds in taken.items()},
        "gain": statistics.median(a / b for a, b in zip(*taken.values(), strict=True)),
    }


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    with torch.no_grad():
        run()
    return time.perf_counter() - begun


def show(record: dict[str, Any]) -> None:
    """The record as a table on stdout."""
    table = Table("", *record["parts"], title=f"{record['model']}, {record['requests']} requests with pictures, {record['machine']}")
    rows: list[tuple[str, ...]] = [("prompts_seconds",), ("full_batch_tokens_per_second",)]
    for name in POLICIES:
        rows += [(name, part, way) for way in WAYS for part in ("tokens_per_second", "of_full_batch")]
        rows.append((name, "same_answers"))
    rows += [("evaluation", "answers_per_second", way) for way in WAYS]
    for path in rows:
        found: list[Any] = list(record["parts"].values())
        for step in path:
            found = [part[step] for part in found]
        table.add_row(", ".join(path).replace("_", " "), *(f"{value:.2f}" for value in found))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
