"""How long does a comparison take? 120 requests x 6 defenses x 3 seeds on mini, and each method's tokens per second against none.

    python benchmarks/comparison.py [--model mini] [--requests 120] [--seeds 3] [--tokens 128]

Answers are made anew in a folder of its own. The result is printed and kept beside this file as comparison.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

METHODS = ("none", "safesteer", "ecso", "coca", "mllm_protector", "adashield")


def main() -> None:
    """Fits, answers, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    asked = parser.parse_args()
    from safesteer_interp.datasets.registry import load_requests
    from safesteer_interp.defenses.defense import Settings
    from safesteer_interp.defenses.registry import defense_named
    from safesteer_interp.evaluation.comparison import Benchmark, answer_benchmarks
    from safesteer_interp.evaluation.throughput import throughput
    from safesteer_interp.models import load_model
    from safesteer_interp.requests import Attack, Split
    from safesteer_interp.tracing.spec import TraceSpec, pick
    from safesteer_interp.tracing.tracer import Sampling

    mllm = load_model(asked.model)
    data = load_requests("planted" if asked.model == "planted" else "bundled")
    training = pick([r for r in data if r.split in (Split.FIT, Split.VALIDATION)], TraceSpec(pairs=16))
    pictures = [r for r in data if r.split is Split.TEST and r.attack in (Attack.CB, Attack.SD, Attack.TYPO)]
    requests = pictures[: asked.requests]
    settings = Settings(Sampling(asked.tokens, 1.0), batch_size=64)
    started = time.perf_counter()
    methods = {name: defense_named(name).build(mllm, training) for name in METHODS}
    fitted = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        table = answer_benchmarks(
            mllm, methods, [Benchmark("pictures", requests)], seeds=tuple(range(asked.seeds)), settings=settings, root=Path(folder)
        )
        seconds = time.perf_counter() - started
    speeds = throughput(mllm, methods, requests[:4], settings=Settings(Sampling(48, 1.0), batch_size=64), repeats=2)
    record = {
        "model": mllm.name,
        "answers": len(table),
        "requests": len(requests),
        "methods": list(methods),
        "seeds": asked.seeds,
        "new_tokens": asked.tokens,
        "fit_seconds": round(fitted, 1),
        "minutes": round(seconds / 60, 2),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "ratio": {row["defense"]: round(float(row["ratio"]), 3) for _, row in speeds.iterrows()},
    }
    print(json.dumps(record, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
