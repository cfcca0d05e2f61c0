"""Do the first tokens of refusals score higher on the harm probe than those of compliances, and how fast does that fade?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.errors import NotApplicableError
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import STEPS, answers, fit_spec, report_spec

SITE = "final_norm"
FITS = ("prompt", "centred", "token")
FIT_WORDS = {
    "prompt": "The paper's probe, fitted on prompts,",
    "centred": "The prompt probe with each step's mean removed",
    "token": "A probe fitted on generated tokens",
}
MINIMUM = 5
"""Answers that must have reached a step for its mean to be shown: a handful of long answers is not the class."""
OUTCOMES = ("harmless", "refuse", "comply")


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    test_steps: tuple[int, ...] = (1, 2, 3)
    """Decoding steps of the sign test (1 = the pass that consumed the first answer token)."""
    random_directions: int = 100
    """Random directions that the sign test is held against."""
    seed: int = 0
    """Seed of the bootstrap, the permutations and the random directions."""


def needs(p: Params) -> list[TraceSpec]:
    return [fit_spec(p, **answers()), report_spec(p, **answers())]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """Probe score of emitted tokens by step and outcome; AUROC between outcomes by step; the sign test of three fits."""
    from safesteer_interp.probes.fits import fit_centred, fit_prompt, fit_token

    fit, report = (ctx.trace(spec) for spec in needs(p))
    harmful = fit.labels.harmful
    prompts = fit.rows(SITE, "last_prompt")
    training, emitted = _tokens(fit), _tokens(report)
    outcome = emitted.pop("outcome")
    for name in ("refuse", "comply"):
        reached = int(((outcome == name) & (emitted["steps"] == 1)).sum())
        from_pairs = len(set(emitted["pairs"][outcome == name]))
        if reached < MINIMUM or from_pairs < 2:
            raise NotApplicableError(
                f'the test split has {reached} answers of kind "{name}" to harmful requests, of {from_pairs} pairs; {MINIMUM} of two pairs '
                "or more are needed to compare refusals with compliances."
            )
    of_harm = training["outcome"] != "harmless"
    early = of_harm & np.isin(training["steps"], p.test_steps)
    # Unlike SafeSteer's token states (`probes.tokens.token_states`): the means of the centred fit are over answers to harmless requests
    # too, and the token fit sees the tested steps alone, refusals of harmless requests among its compliances.
    tokens = {
        "centred": _token_states(training, np.ones(len(of_harm), dtype=bool)),
        "token": _token_states(training, early),
    }
    probes = {"prompt": fit_prompt(prompts, harmful), "centred": fit_centred(prompts, harmful, tokens["centred"])}
    if 0 < int(tokens["token"].refusal.sum()) < len(tokens["token"].refusal):
        probes["token"] = fit_token(tokens["token"])
    steps, pairs, states = emitted["steps"], emitted["pairs"], emitted["states"]
    seed = ctx.seed("bootstrap")
    scores = {name: probe.decision_at(states, steps) for name, probe in probes.items()}
    curves = _curves(scores, probes, report, outcome, steps, pairs, seed)
    at = np.isin(steps, p.test_steps)
    harm_tokens = at & (outcome != "harmless")
    signs = _signs(scores, states, harm_tokens, outcome == "refuse", pairs, ctx.rng("directions"), p, seed)
    return {"table": curves, "separation": _separation(scores, outcome, steps, pairs, seed), "sign_test": signs}


def _tokens(view: Any) -> dict[str, Any]:
    """Every emitted token's state (rows that reached the step), its step, its request's outcome and pair."""
    from safesteer_interp.refusals import is_refusal

    harmful, pairs = view.labels.harmful, view.labels.pairs
    refused = np.array([is_refusal(text) for text in view.texts])
    outcome = np.where(~harmful, "harmless", np.where(refused, "refuse", "comply"))
    outcome[~harmful & refused] = "refused harmless"
    parts = []
    for step in range(1, STEPS + 1):
        states = view.rows(SITE, f"step:{step}")
        there = np.isfinite(states).all(axis=1)
        parts.append((states[there], np.full(there.sum(), step), outcome[there], pairs[there]))
    states, steps, outcome, pairs = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {"states": states, "steps": steps, "outcome": outcome, "pairs": pairs}


def _token_states(tokens: dict[str, Any], keep: Any) -> Any:
    from safesteer_interp.probes.tokens import TokenStates

    return TokenStates(tokens["states"][keep], tokens["outcome"][keep] == "refuse", tokens["steps"][keep], tokens["pairs"][keep])


def _curves(scores: Any, probes: Any, report: Any, outcome: Any, steps: Any, pairs: Any, seed: int) -> pd.DataFrame:
    """Mean score by step and outcome; step 0 is the prompt, grouped by the outcome its answer will have."""
    from safesteer_interp.refusals import is_refusal
    from safesteer_interp.statistics import cluster_mean

    harmful, prompt_pairs = report.labels.harmful, report.labels.pairs
    refused = np.array([is_refusal(text) for text in report.texts])
    later = np.where(~harmful & ~refused, "harmless", np.where(harmful & refused, "refuse", np.where(harmful, "comply", "other")))
    prompt_states = report.rows(SITE, "last_prompt")
    rows = []
    for name, probe in probes.items():
        at_prompt = probe.decision_at(prompt_states, np.zeros(len(prompt_states), dtype=int))
        for kind in OUTCOMES:
            for step in range(STEPS + 1):
                values, groups = (
                    (at_prompt[later == kind], prompt_pairs[later == kind])
                    if step == 0
                    else (scores[name][(outcome == kind) & (steps == step)], pairs[(outcome == kind) & (steps == step)])
                )
                if len(values) >= MINIMUM:
                    rows.append({"fit": name, "step": step, "outcome": kind} | cluster_mean(values, groups, seed=seed).as_row())
    return pd.DataFrame(rows)


def _separation(scores: Any, outcome: Any, steps: Any, pairs: Any, seed: int) -> pd.DataFrame:
    """AUROC of the emitted token's score by step: refusal over compliance, and compliance over harmless answers."""
    from safesteer_interp.statistics import cluster_auroc

    rows = []
    for name, values in scores.items():
        for contrast, (high, low) in {"refuse over comply": ("refuse", "comply"), "comply over harmless": ("comply", "harmless")}.items():
            for step in range(1, STEPS + 1):
                mask = (steps == step) & np.isin(outcome, (high, low))
                if all((outcome[mask] == kind).sum() >= MINIMUM for kind in (high, low)):
                    found = cluster_auroc(values[mask], outcome[mask] == high, pairs[mask], seed=seed)
                    rows.append({"fit": name, "contrast": contrast, "step": step} | found.as_row())
    return pd.DataFrame(rows)


def _signs(scores: Any, states: Any, mask: Any, refusal: Any, pairs: Any, rng: Any, p: Params, seed: int) -> pd.DataFrame:
    """The sign test of each fit as Cohen's d with the interval of the difference in the same unit, beside random directions."""
    from safesteer_interp.probes.signs import sign_test
    from safesteer_interp.statistics import Estimate

    rows = []
    for name, values in scores.items():
        high, low = mask & refusal, mask & ~refusal
        found = sign_test(values[high], values[low], refusal_prompts=pairs[high], compliance_prompts=pairs[low], seed=seed)
        spread = found.difference.value / found.effect if found.effect else float("nan")
        rows.append(
            {
                "fit": name,
                "value": found.effect,
                "low": found.difference.low / spread,
                "high": found.difference.high / spread,
                "n": found.difference.n,
                "clusters": found.difference.clusters,
                "p": found.p,
                "passed": found.passed,
                "refusals": found.refusals,
                "compliances": found.compliances,
            }
        )
    directions = rng.standard_normal((states.shape[1], p.random_directions))
    projected = states[mask].astype(np.float64) @ directions
    a, b = projected[refusal[mask]], projected[~refusal[mask]]
    pooled = np.sqrt((a.var(axis=0) * len(a) + b.var(axis=0) * len(b)) / (len(a) + len(b)))
    effects = (a.mean(axis=0) - b.mean(axis=0)) / np.where(pooled > 0, pooled, 1.0)
    chance = Estimate.of_draws(effects).as_row() | {"n": len(a) + len(b), "clusters": len(set(pairs[mask]))}
    untested = {"p": float("nan"), "passed": False, "refusals": len(a), "compliances": len(b)}
    rows.append({"fit": "random_direction"} | chance | untested)
    return pd.DataFrame(rows)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    signs = t["sign_test"].set_index("fit")
    null = Control("random_direction", estimate_of(signs.loc["random_direction"]))
    found = [
        Claim(
            id=f"sign_test_{name}",
            statement=f"{FIT_WORDS[name]} scores the first tokens of refusals above those of compliances.",
            estimate=estimate_of(signs.loc[name]),
            direction="above",
            threshold=0.0,
            unit="pooled standard deviations (Cohen's d)",
            controls=(null,),
            note="The premise of re-ranking candidates by the probe (arXiv 2605.11716 section 3).",
        )
        for name in FITS
        if name in signs.index
    ]
    separation = t["separation"]
    late = separation[(separation["fit"] == "prompt") & (separation["contrast"] == "refuse over comply")] if len(separation) else separation
    if len(late) > 1:
        first, last = late.loc[late["step"].idxmin()], late.loc[late["step"].idxmax()]
        found.append(
            Claim(
                id="fades_with_steps",
                difference_to="chance, an AUROC of 0.5",
                statement=f"At step {int(last['step'])} the probe no longer tells refusals from compliances.",
                estimate=estimate_of(last),
                direction="within",
                threshold=(0.35, 0.65),
                unit="AUROC",
                controls=(Control(f"step {int(first['step'])}", estimate_of(first), kind="context"),),
            )
        )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    fig, axes = new_figure(rows=2, cols=3, width="full", height=5.2)
    for ax, name in zip(axes[0], FITS, strict=True):
        part = t["table"][t["table"]["fit"] == name]
        if len(part):
            panels.layer_curve(
                ax,
                part,
                x="step",
                by="outcome",
                xlabel="decoding step (0 = prompt)",
                ylabel="probe score (log-odds)",
                reference=0.0,
                reference_label="boundary",
                legend=name == "prompt",
            )
        ax.set_title(f"{name} fit")
    for ax, contrast in zip(axes[1], ("refuse over comply", "comply over harmless"), strict=False):
        part = t["separation"][t["separation"]["contrast"] == contrast] if len(t["separation"]) else t["separation"]
        if not len(part):  # too few answers of one kind
            ax.set_visible(False)
            continue
        panels.layer_curve(
            ax,
            part,
            x="step",
            by="fit",
            kind="fit",
            xlabel="decoding step",
            ylabel="AUROC",
            reference=0.5,
            legend=contrast == "refuse over comply",
        )
        ax.set_title(contrast)
    signs = t["sign_test"].assign(label=lambda d: d["fit"].replace({"random_direction": "random direction"}))
    panels.forest(axes[1, 2], signs, label="label", reference=0.0, xlabel="refusal minus compliance (sd)")
    axes[1, 2].set_title(f"sign test, steps {p.test_steps[0]}-{p.test_steps[-1]}")
    return fig


ANALYSIS = Analysis(
    id="decoding_separability",
    title="Harm while the answer is written",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Fig. 2(b), Fig. 8",
    cites=("arXiv:2605.11716", "arXiv:2410.06809"),
    data=COMPARED,
    profiles={"full": {"pairs": None, "random_directions": 1000}},
    order=2,
    captions={
        "figure": "Probes fitted on training pairs, scores of the tokens emitted for test pairs (greedy answers). Bands: 95 % over pairs. "
        "Removing a step's mean changes no ranking within the step, so that in AUROC the first two fits are one curve."
    },
)
