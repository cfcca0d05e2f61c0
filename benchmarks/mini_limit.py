"""What limits how well mini tells harmful requests from twins: a linear probe on the unmodified language model, by number of examples.

    python benchmarks/mini_limit.py                 # a table, and benchmarks/mini_limit.json (a quarter of an hour on one core)
    python benchmarks/mini_limit.py --shares 1.0    # with all activities only

The probe is fitted on activities that mini's text adapter is trained on, all that there are when it runs (states of the last prompt
token, layer chosen on the validation pairs) and tested on the test pairs' texts. An adapter that refuses as surely as this probe tells
the two apart can refuse the share "refused at 5 %" of harmful texts while it refuses 5 % of their twins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.pairs import Phrasing
from safesteer_interp.files import write_json
from safesteer_interp.mini_training.texts import answered_phrases, harmful_phrases, in_some_form
from safesteer_interp.models.loading import load_folder
from safesteer_interp.models.mini.language import language_dir
from safesteer_interp.requests import Attack, Request, Split
from safesteer_interp.statistics import cluster_auroc, wilson
from safesteer_interp.tracing import collect


@dataclass(frozen=True)
class Options:
    """Measure a linear probe on the unmodified language model."""

    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    """Shares of the activities that the probe is fitted on."""
    activities: int | None = None
    """At most this many activities of each kind; default: all."""
    layers: tuple[int, ...] = (12, 15, 18, 21, 24)
    strength: float = 0.003
    """Inverse strength of the L2 penalty (scikit-learn's C)."""


def training_requests(rng: random.Random, most: int | None) -> list[Request]:
    """Every activity once, in a random form, in random order."""
    named = [(p, True) for p in harmful_phrases()[:most]] + [(p, False) for p in answered_phrases()[:most]]
    rng.shuffle(named)
    return [Request(in_some_form(p, rng), id=f"activity-{i}", harmful=harmful) for i, (p, harmful) in enumerate(named)]


def main(options: Options) -> None:
    """Prints and writes the table."""
    mllm = load_folder(language_dir(), name="smollm2", dtype="auto")
    asked = training_requests(random.Random(0), options.activities)
    held = {s: load_bundled([Attack.TEXT], s, phrasing=Phrasing.MIXED) for s in (Split.VALIDATION, Split.TEST)}

    def states(requests: list[Request]) -> np.ndarray:
        sites = ",".join(f"resid_post.{layer}" for layer in options.layers)
        trace = collect(mllm, requests, sites=sites, reads="last_prompt", batch_size=32, store=None)
        assert list(trace.index["request"]) == [r.id for r in requests]
        return trace.stack("last_prompt")

    seen, labels = states(asked), np.array([r.harmful for r in asked])
    kept = {s: (states(requests), np.array([r.harmful for r in requests]), [r.pair for r in requests]) for s, requests in held.items()}
    rows = []
    for share in options.shares:
        n = round(share * len(asked))
        tried = []
        for layer in range(len(seen)):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=options.strength, max_iter=500)).fit(seen[layer, :n], labels[:n])
            scores = {s: probe.decision_function(x[layer]) for s, (x, _, _) in kept.items()}
            tried.append((cluster_auroc(scores[Split.VALIDATION], *kept[Split.VALIDATION][1:]).value, layer, scores[Split.TEST]))
        _, layer, scores = max(tried, key=lambda t: t[0])
        _, harmful, pair = kept[Split.TEST]
        refused = scores[harmful] > np.quantile(scores[~harmful], 0.95)
        found, caught = cluster_auroc(scores, harmful, pair), wilson(int(refused.sum()), int(harmful.sum()))
        rows.append(
            {"activities": n, "layer": options.layers[layer]}
            | {"auroc": found.value, "auroc_low": found.low, "auroc_high": found.high, "pairs": found.clusters}
            | {"refused_at_5%": caught.value, "low": caught.low, "high": caught.high}
        )
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    write_json(Path(__file__).with_suffix(".json"), {"probe": "smollm2, last prompt token, test pairs, text", "rows": rows}, indent=1)


if __name__ == "__main__":
    main(tyro.cli(Options))
