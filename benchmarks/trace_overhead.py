"""What tracing costs beside a bare forward, whether memory stays flat, and what batches of similar length save.

    python benchmarks/trace_overhead.py [--model language|tiny:llama|FOLDER] [--rounds 9] [--batch 16] [--tokens 36]
                                        [--batches 50] [--requests 96] [--out benchmarks/trace_overhead.json]

The floor is the untouched model with `logits_to_keep=1`, no cache and no gradients. Floor and tracers run in turn within every
round, in rotating order, and each ratio is the median over rounds of (tracer / floor of the same round), so a busy machine slows both
alike. All tracers read every decoder layer and the final norm at the last prompt token. The default model is the language model of
`mini` (SmolLM2-135M-Instruct); the tiny VLM shows the fixed cost per forward, which a real model hides, and is held to no ratio.
Exit code 1 when a limit is passed.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from safesteer_interp.models import load_model
from safesteer_interp.models.mini.language import language_dir
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.requests import Attack, Request
from safesteer_interp.sites import parse_reads, parse_sites
from safesteer_interp.tracing.collecting import load_tracer
from safesteer_interp.tracing.plan import cut
from safesteer_interp.tracing.prefix import Feed

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"hooks": 1.02, "nnsight": 1.05, "transformer_lens": 1.10}
"""Times of a bare forward, on a real-size decoder."""
GROWTH_LIMIT = 0.01
"""Of the resident memory, over all batches after the first five."""
WARM_UP = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="language", help='"language" (of mini), or anything load_model takes')
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds")
    parser.add_argument("--batch", type=int, default=16, help="requests per batch")
    parser.add_argument("--tokens", type=int, default=36, help="words per request, about as many tokens")
    parser.add_argument("--batches", type=int, default=50, help="batches of the memory test")
    parser.add_argument("--requests", type=int, default=96, help="bundled requests of the test of bucketing")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "trace_overhead.json")
    chosen = parser.parse_args(arguments)
    model = load_model(str(language_dir()) if chosen.model == "language" else chosen.model)
    tiny = load_model("tiny:llava")
    record: dict[str, Any] = {
        "model": chosen.model,
        "parameters": sum(p.numel() for p in model.model.parameters()),
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), "cores": os.cpu_count()},
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "overhead": overhead(model, batch_of(model, chosen.batch, chosen.tokens), chosen.rounds),
        "tiny_vlm": overhead(tiny, batch_of(tiny, chosen.batch, chosen.tokens), chosen.rounds),
        "memory_growth": {name: growth(model, name, chosen.batch, chosen.tokens, chosen.batches) for name in LIMITS},
        "bucketing": bucketing(model, chosen.requests, chosen.batch),
    }
    record["over_limit"] = [name for name, limit in LIMITS.items() if record["overhead"][name]["ratio"] > limit]
    record["over_limit"] += [f"memory of {name}" for name, grown in record["memory_growth"].items() if grown > GROWTH_LIMIT]
    chosen.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    show(record)
    return 1 if record["over_limit"] else 0


def batch_of(model: MLLM, rows: int, words: int) -> Encoded:
    """Requests of slightly unequal length, so that some rows are padded, as in a real batch."""
    texts = [" ".join(["passport", "form", "letter", "visa"][(i + j) % 4] for j in range(words - i % 6)) for i in range(rows)]
    return model.encode([Request(id=str(i), text=text, harmful=False, attack=Attack.TEXT) for i, text in enumerate(texts)])


def captures(model: MLLM, name: str) -> Callable[[Encoded], object]:
    """One pass of a tracer over a batch, reading every layer and the final norm at the last prompt token."""
    sites, reads = parse_sites("resid_post,final_norm", model.n_layers), parse_reads("last_prompt")
    tracer = load_tracer(name, model)
    return lambda batch: tracer.capture(batch, sites, reads)


def bare(model: MLLM) -> Callable[[Encoded], object]:
    """The floor: the untouched model, one last logit, no cache, no gradients."""

    @torch.no_grad()
    def run(batch: Encoded) -> object:
        return model.model(**Feed(model.model, batch, cached=False).prompt()).logits

    return run


def overhead(model: MLLM, batch: Encoded, rounds: int) -> dict[str, dict[str, float]]:
    """Per tracer: median ms, ratio to the floor of the same round, and extra ms per forward."""
    runs = {"bare": bare(model), **{name: captures(model, name) for name in LIMITS}}
    for run in runs.values():
        run(batch)
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for number in range(rounds):
        for name in order[number % len(order) :] + order[: number % len(order)]:
            begun = time.perf_counter()
            runs[name](batch)
            times[name].append(time.perf_counter() - begun)
    floor = times["bare"]
    return {
        name: {
            "ms": 1000 * statistics.median(taken),
            "ratio": statistics.median(t / f for t, f in zip(taken, floor, strict=True)),
            "extra_ms": 1000 * statistics.median(t - f for t, f in zip(taken, floor, strict=True)),
        }
        for name, taken in times.items()
    }


def growth(model: MLLM, name: str, rows: int, words: int, batches: int) -> float:
    """Share by which resident memory grew from the first batches to the last, results dropped as a collector drops them."""
    run, process = captures(model, name), psutil.Process()
    batch = batch_of(model, rows, words)
    sizes = []
    for _ in range(WARM_UP + batches):
        run(batch)
        sizes.append(process.memory_info().rss)
    gc.collect()
    start = statistics.median(sizes[WARM_UP : WARM_UP + 5])
    return (statistics.median(sizes[-5:]) - start) / start


def bucketing(model: MLLM, n: int, rows: int) -> dict[str, float]:
    """Time and padded tokens of the bundled texts in batches of similar length, against input order; batches run in turn."""
    from safesteer_interp.datasets import load_bundled

    found = [replace(request, image=None) for request in load_bundled()]
    found = found[:: max(1, len(found) // n)][:n]
    order = [i for chunk in cut(model, found) for i in chunk]
    run = captures(model, "hooks")
    seconds = {"input": 0.0, "bucketed": 0.0}
    tokens = {"input": 0, "bucketed": 0}
    for start in range(0, len(found), rows):
        for name, rows_of in (("input", range(len(found))), ("bucketed", order)):
            batch = model.encode([found[i] for i in rows_of[start : start + rows]])
            begun = time.perf_counter()
            run(batch)
            seconds[name] += time.perf_counter() - begun
            tokens[name] += batch.input_ids.numel()
    return {
        "requests": len(found),
        "tokens_input_order": tokens["input"],
        "tokens_bucketed": tokens["bucketed"],
        "time_saved": 1 - seconds["bucketed"] / seconds["input"],
        "tokens_saved": 1 - tokens["bucketed"] / tokens["input"],
    }


def show(record: dict[str, Any]) -> None:
    """The record as tables on stdout."""
    console = Console()
    for key, title in (("overhead", f"{record['model']}, {record['parameters'] / 1e6:.0f} M parameters"), ("tiny_vlm", "tiny VLM")):
        table = Table("", "ms", "x bare", "limit", "extra ms", title=title)
        for name, row in record[key].items():
            limit = f"{LIMITS[name]:.2f}" if name in LIMITS and key == "overhead" else ""
            table.add_row(name, f"{row['ms']:.1f}", f"{row['ratio']:.3f}", limit, f"{row['extra_ms']:+.2f}")
        console.print(table)
    grown = ", ".join(f"{name} {share:+.2%}" for name, share in record["memory_growth"].items())
    console.print(f"memory growth over the batches (limit {GROWTH_LIMIT:.0%}): {grown}")
    saved = record["bucketing"]
    console.print(
        f"batches of similar length, {saved['requests']} bundled texts: {saved['time_saved']:.1%} less time, "
        f"{saved['tokens_saved']:.1%} fewer tokens than input order"
    )
    console.print("over the limit: " + (", ".join(record["over_limit"]) or "nothing"))


if __name__ == "__main__":
    sys.exit(main())
