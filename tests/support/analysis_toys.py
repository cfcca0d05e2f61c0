"""Small analyses for the tests of the runner, written into a folder of their own, and a session on the known-answer model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safesteer_interp.runner.session import RunSettings, Session

SHARED = "SITE = 'final_norm'\n"

READABLE = '''"""Is harm readable at the end of the prompt?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analyses._shared import SITE
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.tracing.spec import TraceSpec
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.requests import Attack, Split


@dataclass(frozen=True)
class Params:
    pairs: int | None = 6
    """Pairs per split."""
    sites: tuple[str, ...] = ("resid_post.0", "final_norm")
    """Where to read."""
    seed: int = 0
    """Seed of the bootstrap."""


def needs(p):
    return [TraceSpec(attacks=(Attack.CB, Attack.SD), sites=p.sites, pairs=p.pairs)]


def table(ctx, p):
    import numpy as np

    from safesteer_interp.statistics import cluster_auroc

    trace = ctx.trace(needs(p)[0])
    index = trace.index
    labels, pairs = index["harmful"].to_numpy(), index["pair"].to_numpy()
    train = (index["split"] == str(Split.FIT)).to_numpy()
    rows = []
    for site in p.sites:
        states = trace.rows(site, "last_prompt").astype(float)
        axis = states[train & labels].mean(0) - states[train & ~labels].mean(0)
        noise = ctx.rng("control").normal(size=axis.shape)
        for method, direction in (("means", axis), ("random_direction", noise)):
            e = cluster_auroc(states @ direction, labels, pairs, seed=p.seed)
            rows.append({"site": site, "method": method, **e.as_row()})
    return pd.DataFrame(rows)


def claims(t, p):
    last = t[t.site == p.sites[-1]].set_index("method")
    control = Control("random_direction", estimate_of(last.loc["random_direction"]), kind="context")
    return [
        Claim(
            id="readable",
            statement="Harm is readable at the end of the prompt.",
            estimate=estimate_of(last.loc["means"]),
            direction="above",
            threshold=0.5,
            controls=(control,),
            unit="AUROC",
        )
    ]


def draw(t, p):
    from safesteer_interp.plotting import new_figure, panels

    fig, ax = new_figure(width="column", height=2.4)
    panels.forest(ax, t, label="site", by="method", reference=0.5, xlabel="AUROC")
    return fig


ANALYSIS = Analysis(
    "readable", "Is it readable?", Params, needs, table, claims, draw, replicates="SafeSteer Fig. 2(a)",
    cites=("arXiv:2605.11716",), profiles={"full": {"pairs": None}}, order=1,
)
'''

LENGTHS = '''"""How long are the answers?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.tracing.spec import TraceSpec
from safesteer_interp.runner.claim import Claim, Control
from safesteer_interp.requests import Attack
from safesteer_interp.statistics import Estimate


@dataclass(frozen=True)
class Params:
    tokens: int = 3
    """Tokens to generate."""


def needs(p):
    return [TraceSpec(attacks=(Attack.CB,), pairs=2, reads=(f"step:1-{p.tokens}",), logits=True)]


def table(ctx, p):
    trace = ctx.trace(needs(p)[0])
    counts = trace.index["n_generated"]
    assert trace.logits.shape[0] == len(counts)
    assert all(len(g) <= p.tokens for g in trace.generated)
    return {"table": pd.DataFrame({"value": [counts.mean()], "low": [counts.min()], "high": [counts.max()], "n": [len(counts)]}),
            "texts": pd.DataFrame({"text": trace.texts})}


def claims(t, p):
    row = t["table"].iloc[0]
    e = Estimate(float(row.value), float(row.low), float(row.high), int(row.n))
    control = Control("raw_pixels", Estimate(9.0, 8.0, 10.0, 2))
    words = {"id": "short", "statement": "Answers are short.", "unit": "tokens"}
    return [Claim(estimate=e, direction="below", threshold=p.tokens + 0.5, controls=(control,), **words)]


def draw(t, p):
    from safesteer_interp.plotting import new_figure

    figures = {}
    for name in ("figure", "again"):
        figures[name], ax = new_figure(width="column", height=2)
        ax.bar([0], t["table"]["value"])
        ax.set_ylabel("answer (tokens)")
    return figures


ANALYSIS = Analysis("lengths", "Answer length", Params, needs, table, claims, draw, requires_images=True, order=2)
'''

BROKEN = '''"""Does a broken analysis stop the others?"""

from dataclasses import dataclass

from safesteer_interp.runner.analysis import Analysis


@dataclass(frozen=True)
class Params:
    pass


def table(ctx, p):
    return {}["nothing"]


ANALYSIS = Analysis("broken", "Broken", Params, lambda p: [], table, lambda t, p: [], lambda t, p: None, order=0)
'''


def write_toys(folder: Path, *names: str) -> Path:
    """The toy analyses asked for, in `folder`/analyses."""
    place = folder / "analyses"
    place.mkdir(parents=True, exist_ok=True)
    (place / "_shared.py").write_text(SHARED, encoding="utf-8")
    sources = {"readable": READABLE, "lengths": LENGTHS, "broken": BROKEN}
    for name in names:
        (place / f"{name}.py").write_text(sources[name], encoding="utf-8")
    return place


def bench_on(model: Any, folder: Path, pairs: int = 16) -> Session:
    """A session on the known-answer model and a few of its pairs, with a trace store of its own."""
    from safesteer_interp.datasets.planted import planted_requests

    settings = RunSettings(model="planted", store=folder / "traces", progress=False)
    return Session(settings, loaded_model=model, loaded_requests={"planted": planted_requests(n_pairs=pairs)})
