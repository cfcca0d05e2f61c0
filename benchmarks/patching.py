"""What activation patching costs when nothing is computed twice, beside one forward a patch.

    python benchmarks/patching.py [--model mini] [--pairs 3] [--rounds 2] [--out benchmarks/patching.json]

Every pair is patched at all layers, in four token roles and both directions (text form into SD picture and back) by `replay`; in the
same round bare forwards are timed; their median times the number of patches is what one forward a patch would take. Printed: the
ratio, and the time that 24 pairs would take here (limit on two free cores: 6 minutes). Exit code 1 below a ratio of five.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from safesteer_interp.datasets import load_requests
from safesteer_interp.interventions import Patch, record, replay
from safesteer_interp.interventions.replaying import plan_rows
from safesteer_interp.models import load_model
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.sites import Site
from safesteer_interp.tracing.prefix import Feed

ROOT = Path(__file__).resolve().parents[1]
ROLES = ("image", "user", "template", "last")
LEAST = 5.0
"""Times that replaying must be faster than one forward a patch."""
PAIRS = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="anything load_model takes")
    parser.add_argument("--pairs", type=int, default=3, help="pairs that are patched")
    parser.add_argument("--rounds", type=int, default=2, help="bare forwards a pair and direction")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "patching.json")
    chosen = parser.parse_args(arguments)
    model = load_model(chosen.model)
    data = "planted" if chosen.model == "planted" else "bundled"
    requests = [r for r in load_requests(data) if r.harmful and r.split is Split.VALIDATION and r.attack in (Attack.CB, Attack.SD)]
    pairs = list(dict.fromkeys(r.pair for r in requests))[: chosen.pairs]
    of = {(r.pair, r.attack): r for r in requests}
    rounds = [measured(model, of[pair, Attack.CB], of[pair, Attack.SD], chosen.rounds) for pair in pairs]
    seconds = statistics.median(one["replay_seconds"] for one in rounds)
    found = {
        "model": chosen.model,
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "patches_per_pair": rounds[0]["patches"],
        "ratio": round(statistics.median(one["one_by_one_seconds"] / one["replay_seconds"] for one in rounds), 2),
        "forwards_per_patch": round(statistics.mean(one["forwards"] / one["patches"] for one in rounds), 4),
        "minutes_for_24_pairs": round(PAIRS * seconds / 60, 2),
        "rounds": rounds,
    }
    chosen.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name != "rounds"}, indent=2))
    return 0 if found["ratio"] >= LEAST else 1


def measured(model: MLLM, text: Request, picture: Request, rounds: int) -> dict[str, Any]:
    """Seconds of one pair, both directions, recordings included; and what one forward a patch would take."""
    patches = [Patch((Site.parse(f"resid_post.{layer}"),), (role,)) for layer in range(model.n_layers) for role in ROLES]
    bare = [forward(model, request) for request in (text, picture) for _ in range(rounds)]
    began = time.perf_counter()
    one, other = record(model, text), record(model, picture)
    for receiver, donor in ((other, one), (one, other)):
        replay(model, receiver, patches, donor=donor)
    spent = time.perf_counter() - began
    bare += [forward(model, request) for request in (text, picture)]
    planned = [row for receiver, donor in ((other, one), (one, other)) for row in plan_rows(model, receiver, patches, donor)]
    return {
        "replay_seconds": spent,
        "one_by_one_seconds": statistics.median(bare) * 2 * len(patches),
        "patches": 2 * len(patches),
        "forwards": sum(row.forwards(model.n_layers, one.length) for row in planned) + 2,
    }


def forward(model: MLLM, request: Request) -> float:
    """Seconds of a bare prompt pass."""
    feed = Feed(model.model, model.encode([request]), cached=False)
    began = time.perf_counter()
    with torch.no_grad():
        model.model(**feed.prompt())
    return time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
