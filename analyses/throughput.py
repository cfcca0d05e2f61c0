"""What does each defense cost in tokens per second, and how long does it take to fit the probe?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import DataNeeds
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import fitted, test_spec, training_spec
from ._shared import row

ATTACKS = (Attack.SD,)
FAST_ENOUGH = 0.9
"""Share of the undefended speed; the paper reports 92.97 of 97.89 tokens/s (arXiv 2605.11716 Table 2)."""
PROBE, DEFENSE = "probe alone", "probe, sign test and MSAV"


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split that probe and vector are fitted on."""
    answer_pairs: int | None = 1
    """Test pairs whose pictures (harmful and harmless) are answered; they share a batch."""
    new_tokens: int = 48
    """Tokens of every answer; all methods write that many, whatever they say."""
    batch: int = 64
    """Requests answered at a time."""
    repeats: int = 3
    """Timed rounds; methods take turns within each, after one round that is not timed."""
    k: int = 5
    """Candidates a guided step."""
    steps: int = 5
    """Answer tokens that are guided."""


def needs(p: Params) -> list[TraceSpec]:
    return [training_spec(p), test_spec(p, ATTACKS)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """Tokens per second of whole answers (prompt pass and auxiliary questions included), and seconds of a fit from the stored trace.

    The intervals are those of the machine, from the slowest to the fastest round, not of a population.
    """
    from safesteer_interp.defenses.coca import CoCA
    from safesteer_interp.defenses.defense import Settings
    from safesteer_interp.defenses.ecso import ECSO
    from safesteer_interp.defenses.none import Undefended
    from safesteer_interp.evaluation.throughput import throughput
    from safesteer_interp.probes.fits import fit_prompt
    from safesteer_interp.tracing.tracer import Sampling

    defenses = {
        "none": Undefended(),
        "safesteer": fitted(ctx, p, k=p.k, steps=p.steps),
        "ecso": ECSO(caption_tokens=p.new_tokens),
        "coca": CoCA(),
    }
    settings = Settings(Sampling(max_new_tokens=p.new_tokens, temperature=1.0), batch_size=p.batch)
    speeds = throughput(ctx.model, defenses, ctx.requests(test_spec(p, ATTACKS)), settings=settings, repeats=p.repeats)
    view = ctx.trace(training_spec(p))

    def fit_probe() -> None:
        fit_prompt(view.rows("final_norm", "last_prompt"), view.labels.harmful)

    rows = [
        {"what": what, **_seconds(work, p.repeats), "requests": len(view)}
        for what, work in ((PROBE, fit_probe), (DEFENSE, lambda: fitted(ctx, p)))
    ]
    fit = pd.DataFrame(rows)
    return {name: t.assign(kind="spread", level=1.0) for name, t in (("table", speeds), ("fit", fit))}  # slowest to fastest round


def _seconds(work: Any, repeats: int) -> dict[str, Any]:
    """Median, fastest and slowest of some runs, after one that is not timed."""
    import statistics
    import time

    taken = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return {"seconds": statistics.median(taken[1:]), "low": min(taken[1:]), "high": max(taken[1:]), "n": repeats}


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    def ratio(defense: str) -> Any:
        return estimate_of(row(t["table"], defense=defense), value="ratio", low="ratio_low", high="ratio_high")

    def seconds(what: str) -> Any:
        return estimate_of(row(t["fit"], what=what), value="seconds")

    note = "The interval runs from the slowest to the fastest round on one machine."
    return [
        Claim(
            id="keeps_speed",
            kind="sanity",
            clusters="rounds",
            statement=f"With {p.k} candidates on {p.steps} of {p.new_tokens} tokens, SafeSteer keeps {FAST_ENOUGH:.0%} of the speed.",
            estimate=ratio("safesteer"),
            direction="above",
            threshold=FAST_ENOUGH,
            unit="ratio of tokens per second to no defense",
            controls=(Control("ECSO", ratio("ecso"), kind="context"), Control("CoCA", ratio("coca"), kind="context")),
            note=note,
        ),
        Claim(
            id="quick_to_fit",
            kind="sanity",
            clusters="rounds",
            statement="The probe is fitted within a second from a stored trace.",
            estimate=seconds(PROBE),
            direction="below",
            threshold=1.0,
            unit="seconds",
            controls=(Control("whole defense", seconds(DEFENSE), kind="context"),),
            note=note,
        ),
    ]


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels, style_of

    fig, axes = new_figure(rows=1, cols=2, width="full", height=2.3, width_ratios=(1.4, 1.0))
    speeds = t["table"].assign(label=lambda d: [style_of("method", name).label for name in d["defense"]])
    options: dict[str, Any] = {"by": "defense", "kind": "method", "legend": False}
    panels.forest(axes[0], speeds, value="ratio", low="ratio_low", high="ratio_high", reference=1.0,
                  xlabel="speed as a share of no defense's (1 = as fast)", **options)  # fmt: skip
    axes[0].set_title("tokens per second")
    fits = t["fit"].assign(label=t["fit"]["what"].str.replace("test and", "test\nand"))
    panels.forest(axes[1], fits, label="label", value="seconds", xlabel=f"seconds ({int(t['fit']['requests'].iloc[0])} requests)")
    axes[1].set_title("time to fit")
    for ax in axes:
        ax.set_xlim(left=0)
    return fig


ANALYSIS = Analysis(
    id="throughput",
    title="What a defense costs",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Table 2",
    cites=("arXiv:2605.11716", "arXiv:2403.09572", "arXiv:2409.11365"),
    requires_images=True,
    attacks=(Attack.CB, *ATTACKS),
    data=DataNeeds(both_classes=True),
    profiles={"full": {"pairs": None, "answer_pairs": 8, "new_tokens": 128, "repeats": 5}},
    order=14,
    timed=("tokens_per_second", "ratio", "ratio_low", "ratio_high", "seconds", "low", "high"),
    captions={
        "figure": "Whole answers of equal length, prompt pass and auxiliary questions included; methods take turns. Points: medians; bars: "
        "slowest to fastest round. Seconds and tokens per second belong to one machine, ratios can be compared."
    },
)
