"""The steps SafeSteer's effect depends on, each measured by itself: verdict, refusal token within reach, sign of the probe, its shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.errors import InputError
from safesteer_interp.runner.context import Context
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import PAPER_ATTACKS, GuidedParams, training_spec
from ._refusal_tokens import refusal_tokens
from ._shared import STEPS, Paired, answers, attacks_in, report_spec

SITE = "final_norm"
FITS = ("prompt", "token")
CALLED, REACH, REACH_MSAV, REACH_RANDOM = (
    "called harmful", "refusal token in top K", "refusal token in top K, MSAV", "refusal token in top K, random vector",
)  # fmt: skip
DRAWS = 5
"""Random vectors of each pair, whose reach is averaged: a mean over pairs is one over vectors as well."""
SHIFT = "shift from prompt to tokens"


def tokens_spec(p: Paired) -> TraceSpec:
    """Prompt and first-token states of the test pairs with the undefended greedy answers."""
    return report_spec(p, attacks=PAPER_ATTACKS, sites=(SITE,), **answers())


def probes(ctx: Context, p: Paired) -> dict[str, Any]:
    """The probe of each fit on the training pairs; a fit for which the answers lack refusals or compliances is left out."""
    from safesteer_interp.probes.fitting import fit_probe

    found = {}
    for name in FITS:
        try:
            found[name] = fit_probe(ctx.model, ctx.trace(training_spec(p)), name)
        except InputError:
            continue
    return found


def premises(ctx: Context, p: GuidedParams, base: Any, corrected: Any) -> pd.DataFrame:
    """One row per premise, attack and class: value, low, high, n, clusters, p.

    `called harmful`: by the probe and thresholds of `base`. `refusal token in top K` of the first token: as the model has it, after MSAV
    of `corrected` on every request that its probe calls harmful, and after random vectors of that length, each pair's own; and the first
    two's difference to the others, paired. `shift`: an answer's mean prompt-fit score over its first `steps` tokens minus its prompt's, in
    units of the gap between harmful and harmless prompts (0: the probe meets what it was fitted on).
    """
    from safesteer_interp.images import shows_something
    from safesteer_interp.statistics import cluster_mean, cluster_rate

    view = ctx.trace(tokens_spec(p))
    labels, prompts = view.labels, view.rows(SITE, "last_prompt")
    harmful, attack, pairs = labels.harmful, labels.attacks, labels.pairs
    seed, rows = ctx.seed("premises"), []
    shown = np.array([shows_something(request.image) for request in ctx.requests(tokens_spec(p))])
    bars = np.where(shown, base.threshold_picture, base.threshold)
    tokens = list(refusal_tokens(ctx, p))

    def in_reach(states: Any) -> Any:
        logits = ctx.head(states, normed=True)
        best = logits[:, tokens].max(axis=1, keepdims=True)
        return np.asarray((logits > best).sum(axis=1) < p.k)

    drawn = [in_reach(_opened_at_random(corrected, prompts, pairs, draw)) for draw in range(DRAWS)]
    hits = {
        CALLED: base.prompt_probe.decision_function(prompts) > bars,
        REACH: in_reach(prompts),
        REACH_MSAV: in_reach(_opened(corrected, prompts)),
        REACH_RANDOM: np.mean(drawn, axis=0),
    }
    gains = {f"{REACH_MSAV} minus without": hits[REACH], f"{REACH_MSAV} minus random vector": hits[REACH_RANDOM]}
    for form in [*attacks_in(view.index), "pictures"]:
        for kind, side in (("harmful", harmful), ("harmless", ~harmful)):
            mask = side & ((attack != "CB") if form == "pictures" else (attack == form))
            where = {"attack": form, "class": kind}
            for name, hit in hits.items():
                found = (
                    cluster_mean(hit[mask], pairs[mask], bounds=(0.0, 1.0), seed=seed)
                    if name == REACH_RANDOM
                    else cluster_rate(hit[mask], pairs[mask], seed=seed)
                )
                rows.append({"premise": name, **where} | found.as_row())
            for name, other in gains.items():
                gain = hits[REACH_MSAV][mask].astype(float) - other[mask].astype(float)
                rows.append({"premise": name, **where} | cluster_mean(gain, pairs[mask], bounds=(-1.0, 1.0), seed=seed).as_row())
    rows += _shift(view, corrected.prompt_probe, p.steps, harmful, pairs, seed)
    return pd.DataFrame(rows)


def scores(ctx: Context, p: GuidedParams, fits: dict[str, Any]) -> pd.DataFrame:
    """Mean probe score (log-odds) of test requests by fit, class and step; step 0 is the prompt, k the k-th answer token."""
    from safesteer_interp.statistics import cluster_mean

    view = ctx.trace(tokens_spec(p))
    harmful, pairs = view.labels.harmful, view.labels.pairs
    rows = []
    for fit, probe in fits.items():
        for step in range(min(p.steps, STEPS) + 1):
            found = _scores(view, probe, step)
            for kind, side in (("harmful", harmful), ("harmless", ~harmful)):
                there = side & np.isfinite(found)
                if there.sum() > 1:
                    estimate = cluster_mean(found[there], pairs[there], seed=ctx.seed("scores"))
                    rows.append({"fit": fit, "class": kind, "step": step} | estimate.as_row())
    return pd.DataFrame(rows)


def _scores(view: Any, probe: Any, step: int) -> Any:
    """[n] the probe's scores at a step (0 = prompt); NaN where the answer had ended."""
    states = view.rows(SITE, f"step:{step}" if step else "last_prompt")
    there = np.isfinite(states).all(axis=1)
    found = np.full(len(states), np.nan)
    found[there] = probe.decision_at(states[there], np.full(there.sum(), step))
    return found


def _opened(defense: Any, prompts: Any) -> Any:
    """Prompt states as the defense leaves them: moved by its vector where its probe calls the request harmful."""
    import torch

    with torch.inference_mode():
        return defense.opening(torch.from_numpy(prompts)).states.numpy()


def _opened_at_random(defense: Any, prompts: Any, pairs: Any, draw: int) -> Any:
    """The same with a random vector of the same length in place of the defense's, another one for every pair."""
    opened = np.array(prompts, copy=True)
    for number, pair in enumerate(dict.fromkeys(pairs)):
        own = pairs == pair
        opened[own] = _opened(defense.with_random_vector(DRAWS * number + draw), prompts[own])
    return opened


def _shift(view: Any, probe: Any, steps: int, harmful: Any, pairs: Any, seed: int) -> list[dict[str, Any]]:
    """How far an answer's scores lie from its prompt's, by class, in units of a gap that is measured on the same pairs."""
    from safesteer_interp.statistics import cluster_jackknife

    at_prompt = _scores(view, probe, 0)
    by_step = np.stack([_scores(view, probe, step) for step in range(1, min(steps, STEPS) + 1)])
    there = np.isfinite(by_step).any(axis=0)
    shift = np.full(len(at_prompt), np.nan)
    shift[there] = np.nanmean(by_step[:, there], axis=0) - at_prompt[there]

    def in_gaps(own: Any, score: Any, bad: Any) -> float:
        if bad.all() or not bad.any() or not np.isfinite(own).any():
            return float("nan")
        gap = abs(score[bad].mean() - score[~bad].mean())
        return float(np.nanmean(own) / gap) if gap else float("nan")

    rows = []
    for kind, side in (("harmful", harmful), ("harmless", ~harmful)):
        own = np.where(side, shift, np.nan)
        found = cluster_jackknife(in_gaps, [own, at_prompt, harmful], pairs, against=(-0.5, 0.5), seed=seed)
        told = np.isfinite(own)
        numbers = found.as_row() | {"n": int(told.sum()), "clusters": len(np.unique(pairs[told]))}
        rows.append({"premise": SHIFT, "fit": "prompt", "class": kind} | numbers)
    return rows
