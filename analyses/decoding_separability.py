"""Does a harm probe put candidates before a refusal above the others of their step, and how does harm fade as an answer goes on?"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.errors import InputError, NotApplicableError
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.sites import SiteKind
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import PAPER_ATTACKS
from ._choices import CHANCE, EMBEDDING, GUIDING, IDENTITY, LOG_P, SITE, chance_of, guiding_layers, offers_of, orders
from ._last_token import last_tokens
from ._shared import STEPS, answers, fit_spec, report_spec, site_label

CURVES = ("prompt", "centred", "token")
FIT_WORDS = {
    "prompt": "the paper's probe, fitted on prompts,",
    "token": "a probe fitted on emitted tokens",
    "contrastive": "a probe fitted on candidates of single choices",
}
MINIMUM = 5
"""Answers that must have reached a step for its mean to be shown: a handful of long answers is not the class."""
OUTCOMES = ("harmless", "refuse", "comply")
BAND = (0.35, 0.65)
"""AUROCs that tell nothing apart worth speaking of."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    choice_pairs: int = 24
    """Pairs of the fit split, and of the test split, whose candidates are rolled out."""
    k: int = 5
    """Candidates a step."""
    choice_steps: int = 3
    """First steps whose candidates are rolled out: 0 is the first answer token."""
    depths: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85)
    """Where else candidates are scored, as shares of the decoder's depth: the layers of the defense."""
    answer_tokens: int = 64
    """Longest answer whose last token is looked at."""
    random_directions: int = 200
    """Random directions within the probe's components that the order is held against."""
    batch: int = 96
    """Answers per batch."""
    seed: int = 0
    """Seed of the random directions."""


def needs(p: Params) -> list[TraceSpec]:
    return [fit_spec(p, **answers()), report_spec(p, **answers())]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """How scores order the candidates of one test prompt at one step; scores of emitted tokens by step and outcome; AUROC by layer.

    `choices`: share of (refusing, complying) pairs of candidates ordered rightly, each step and form counted alike, by scorer and step
    ("all": together): probes, and controls that know the token (refusal rate of that token among training candidates; its input embedding;
    its log-probability) or nothing (random directions within each probe's own components). `differences`: paired, to token identity.
    `last`: AUROC of refusal over compliance on the last token of whole answers.
    """
    fit, report = (ctx.trace(spec) for spec in needs(p))
    probes = _probes(fit)
    emitted = _tokens(report)
    outcome = emitted.pop("outcome")
    for kind in ("refuse", "comply"):
        reached = int(((outcome == kind) & (emitted["steps"] == 1)).sum())
        if reached < MINIMUM or len(set(emitted["pairs"][outcome == kind])) < 2:
            raise NotApplicableError(
                f'the test split has {reached} answers of kind "{kind}" to harmful requests; {MINIMUM} of two pairs or more are needed to '
                "compare refusals with compliances."
            )
    steps, pairs, states = emitted["steps"], emitted["pairs"], emitted["states"]
    scores = {name: probe.decision_at(states, steps) for name, probe in probes.items()}
    offers = offers_of(ctx, p, needs(p))
    choices, differences, tests = orders(ctx, p, probes, offers)
    return {
        "table": _curves(scores, probes, report, outcome, steps, pairs),
        "separation": _separation(scores, outcome, steps, pairs),
        "last": _last(ctx, p, probes),
        "choices": choices,
        "differences": differences,
        "tests": tests,
        "layers": _layers(fit, report),
        "guiding_layers": guiding_layers(fit, offers),
    }


def _probes(fit: Any) -> dict[str, Any]:
    """The fits whose curves are drawn; the token fit is missing where the answers lack refusals or compliances."""
    from safesteer_interp.probes.fits import fit_centred, fit_prompt, fit_token
    from safesteer_interp.probes.tokens import token_states

    prompts, everything = fit.rows(SITE, "last_prompt"), np.ones(len(fit), dtype=bool)
    found = {
        "prompt": fit_prompt(prompts, fit.labels.harmful),
        "centred": fit_centred(prompts, fit.labels.harmful, token_states(fit, everything, harmless=True)),
    }
    with suppress(InputError):
        found["token"] = fit_token(token_states(fit, everything, steps=range(1, 6)))
    return found


def _layers(fit: Any, report: Any) -> pd.DataFrame:
    """AUROC of refusal over compliance of the tokens emitted at each step, by the layer at which the prompt fit was made and reads."""
    from safesteer_interp.probes.decoding_probe import DecodingProbe
    from safesteer_interp.refusals import is_refusal
    from safesteer_interp.statistics import cluster_auroc

    refused, harmful, pairs = np.array([is_refusal(text) for text in report.texts]), report.labels.harmful, report.labels.pairs
    rows = []
    for site in report.sites_in_order:
        if site.kind is SiteKind.EMBED:  # the last prompt token is the same in every prompt
            continue
        probe = DecodingProbe().fit(fit.rows(site, "last_prompt"), fit.labels.harmful.astype(int))
        for step in range(1, STEPS + 1):
            states = report.rows(site, f"step:{step}")
            there = harmful & np.isfinite(states).all(axis=1)
            if min(int(refused[there].sum()), int((~refused[there]).sum())) < MINIMUM:
                continue
            found = cluster_auroc(probe.decision_function(states[there]), refused[there], pairs[there])
            rows.append({"layer": site_label(site), "step": step} | found.as_row())
    return pd.DataFrame(rows, columns=None if rows else ["layer", "step", "value", "low", "high", "n", "clusters"])


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


def _last(ctx: Context, p: Params, probes: dict[str, Any]) -> pd.DataFrame:
    """AUROC of refusal over compliance on the last token of greedy answers to harmful requests, by fit; empty where one kind is missing."""
    from safesteer_interp.decoding.rollouts import ranked
    from safesteer_interp.statistics import cluster_auroc

    requests = ranked([r for r in ctx.requests(needs(p)[1]) if r.attack in PAPER_ATTACKS], p.choice_pairs)
    last = last_tokens(ctx, requests, new_tokens=p.answer_tokens, batch=p.batch)
    rows = []
    if min(int(last.refused.sum()), int((~last.refused).sum())) >= MINIMUM:
        for name, probe in ((n, each) for n, each in probes.items() if n != "centred"):  # answers end at steps of their own mean
            scores = probe.decision_at(last.states, last.steps)
            found = cluster_auroc(scores, last.refused, last.pairs, against=BAND)
            rows.append({"fit": name, "median_step": float(np.median(last.steps)), "ended": float(last.ended.mean())} | found.as_row())
    return pd.DataFrame(rows, columns=None if rows else ["fit", "median_step", "ended", "value", "low", "high", "n", "clusters"])


def _curves(scores: Any, probes: Any, report: Any, outcome: Any, steps: Any, pairs: Any) -> pd.DataFrame:
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
                    rows.append({"fit": name, "step": step, "outcome": kind} | cluster_mean(values, groups).as_row())
    return pd.DataFrame(rows)


def _separation(scores: Any, outcome: Any, steps: Any, pairs: Any) -> pd.DataFrame:
    """AUROC of the emitted token's score by step: refusal over compliance, and compliance over harmless answers."""
    from safesteer_interp.statistics import cluster_auroc

    rows = []
    for name, values in scores.items():
        for contrast, (high, low) in {"refuse over comply": ("refuse", "comply"), "comply over harmless": ("comply", "harmless")}.items():
            for step in range(1, STEPS + 1):
                mask = (steps == step) & np.isin(outcome, (high, low))
                if all((outcome[mask] == kind).sum() >= MINIMUM for kind in (high, low)):
                    edge = BAND if high == "refuse" else 0.5
                    found = cluster_auroc(values[mask], outcome[mask] == high, pairs[mask], against=edge)
                    rows.append({"fit": name, "contrast": contrast, "step": step} | found.as_row())
    return pd.DataFrame(rows)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    choices, gaps = t["choices"], t["differences"]
    whole = choices[choices["step"].astype(str) == "all"].set_index("scorer")
    known = [name for name in (IDENTITY, EMBEDDING, LOG_P) if name in whole.index]
    shown = tuple(Control(name, estimate_of(whole.loc[name]), kind="context") for name in known)
    found = []
    for name in [n for n in GUIDING if n in whole.index]:
        by_paper = name == "prompt"
        chance = Control(CHANCE, estimate_of(whole.loc[chance_of(name)]), absolute=True, center=0.5)
        words = FIT_WORDS[name]
        found.append(
            Claim(
                id=f"orders_candidates_{name}",
                kind="replication" if by_paper else "finding",
                source="arXiv:2605.11716 section 3" if by_paper else "",
                printed="tokens of compliant answers get lower probe scores than tokens of refusals" if by_paper else "",
                statement=f"Among the candidates of one prompt at one step, {words} scores those before a refusal above the others.",
                estimate=estimate_of(whole.loc[name]),
                direction="above",
                threshold=0.5,
                unit="share of pairs of candidates ordered rightly",
                controls=(chance, *shown),
                note="Prompt and step are the same on both sides. A probe may guide that does better than a coin here (0.5); a random "
                "direction may do so, too, and this claim is held against those.",
            )
        )
        gap = gaps[gaps["scorer"] == name].iloc[0]
        found.append(
            Claim(
                id=f"more_than_token_identity_{name}",
                statement=f"There {words} does better than knowing the token alone (its refusal rate among training candidates).",
                estimate=estimate_of(gap),
                direction="above",
                threshold=0.0,
                unit="difference in share ordered rightly, paired",
                difference_to="token identity",
            )
        )
    separation = t["separation"]
    late = separation[(separation["fit"] == "prompt") & (separation["contrast"] == "refuse over comply")] if len(separation) else separation
    if len(late) > 1:
        first, last = late.loc[late["step"].idxmin()], late.loc[late["step"].idxmax()]
        found.append(
            Claim(
                id="fades_with_steps",
                kind="replication",
                source="arXiv:2605.11716 Fig. 8",
                printed="at late steps the classes are no longer apart",
                statement=f"At step {int(last['step'])} the probe no longer tells tokens of refusals from those of compliances.",
                estimate=estimate_of(last),
                direction="within",
                threshold=BAND,
                unit="AUROC",
                difference_to="chance, by a band around it",
                controls=(Control(f"step {int(first['step'])}", estimate_of(first), kind="context"),),
                note=_turned_round(last),
            )
        )
    last_of_prompt = t["last"][t["last"]["fit"] == "prompt"]
    if len(last_of_prompt):
        last = last_of_prompt.iloc[0]
        found.append(
            Claim(
                id="fades_at_the_last_token",
                kind="replication",
                source="arXiv:2605.11716 Fig. 8",
                printed="at the last token the classes are no longer apart",
                statement="At the last token of whole answers the probe no longer tells refusals from compliances.",
                estimate=estimate_of(last),
                direction="within",
                threshold=BAND,
                unit="AUROC",
                difference_to="chance, by a band around it",
                note=f"{_turned_round(last)} The median answer ends at step {last['median_step']:.0f}; {1 - last['ended']:.0%} were cut at "
                f"{p.answer_tokens}.".lstrip(),
            )
        )
    return found


def _turned_round(found: pd.Series) -> str:
    """What an AUROC below the band means: the classes are apart, the other way round."""
    return "Turned round: refusals score below compliance." if float(found["value"]) < BAND[0] else ""


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    return {"figure": _curve_figure(t, p), "choices": _choice_figure(t, p)}


def _curve_figure(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    fig, axes = new_figure(rows=2, cols=3, width="full", height=5.2)
    for ax, name in zip(axes[0], CURVES, strict=True):
        part = t["table"][t["table"]["fit"] == name]
        if len(part):
            panels.layer_curve(ax, part, x="step", by="outcome", kind="outcome", xlabel="decoding step (0 = prompt)",
                               ylabel="probe score (log-odds)", reference=0.0, reference_label="boundary",
                               legend=name == "prompt")  # fmt: skip
        ax.set_title(f"{name} fit")
    for ax, contrast in zip(axes[1], ("refuse over comply", "comply over harmless"), strict=False):
        part = t["separation"]
        part = part[(part["contrast"] == contrast) & (part["fit"] != "centred")] if len(part) else part
        if not len(part):  # too few answers of one kind
            ax.set_visible(False)
            continue
        if contrast == "refuse over comply":
            part = pd.concat([part.assign(step=part["step"].astype(str)), t["last"][t["last"]["fit"] != "centred"].assign(step="last")])
        panels.layer_curve(ax, part, x="step", by="fit", kind="fit", xlabel="decoding step", ylabel="AUROC", reference=0.5, apart=("last",),
                           legend=contrast == "refuse over comply")  # fmt: skip
        ax.set_title(contrast)
    layers = t["layers"]
    if len(layers):
        panels.layer_step_heatmap(axes[1, 2], layers, label="AUROC, refuse over comply", center=0.5, vmin=0.0, vmax=1.0)
        axes[1, 2].set_title("prompt fit, by layer")
    else:
        axes[1, 2].set_visible(False)
    return fig


def _choice_figure(t: dict[str, pd.DataFrame], p: Params) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    fig, axes = new_figure(rows=1, cols=3, width="full", height=3.2)
    choices = t["choices"].assign(step=t["choices"]["step"].astype(str))
    labels = {IDENTITY: "token identity", EMBEDDING: "input embedding", LOG_P: "log-probability", "prompt": "probe of prompts",
              "token": "probe of tokens", "contrastive": "probe of candidates"}  # fmt: skip
    whole = choices[(choices["step"] == "all") & ~choices["scorer"].str.startswith(CHANCE)]
    panels.forest(axes[0], whole.assign(label=whole["scorer"].replace(labels)), label="label", by="scorer", kind="fit", reference=0.5,
                  xlabel="candidate pairs ordered rightly", legend=False)  # fmt: skip
    axes[0].set_title(f"within one choice, steps 0-{p.choice_steps - 1}")
    steps = choices[choices["step"] != "all"]
    panels.layer_curve(axes[1], steps.assign(step=steps["step"].astype(int)), x="step", by="scorer", kind="fit",
                       xlabel="step of the choice", ylabel="candidate pairs ordered rightly", reference=0.5, bars=True)  # fmt: skip
    axes[1].set_xticks(sorted(steps["step"].astype(int).unique()))
    axes[1].set_title("by step")
    layers = t["guiding_layers"]
    panels.layer_curve(axes[2], layers.assign(layer=layers["layer"].astype(str)), by="fit", kind="fit", reference=0.5, legend=False,
                       bars=True, xlabel="layer of the score", ylabel="candidate pairs ordered rightly")  # fmt: skip
    axes[2].set_title("by layer")
    return fig


ANALYSIS = Analysis(
    id="decoding_separability",
    title="Harm while the answer is written",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Fig. 2(b), Fig. 7, Fig. 8",
    cites=("arXiv:2605.11716", "arXiv:2410.06809"),
    data=COMPARED,
    profiles={"full": {"pairs": None, "choice_pairs": 100, "k": 10, "random_directions": 1000}},
    order=2,
    captions={
        "figure": "Probes fitted on training pairs, scores of the tokens emitted for test pairs (greedy answers). Bands: 95 % over pairs. "
        "Removing a step's mean changes no ranking within the step, so that the AUROC of the first fit is the second's as well. The "
        'map: prompt fits at every layer, read on the tokens emitted at every step. "last": the last token of whole answers.',
        "choices": "Candidates of one test prompt at one step, each said and the answer finished greedily: how often does a scorer put a "
        "candidate before a refusal above one before a compliance? Steps and forms count alike. Bars and bands: 95 % over pairs.",
    },
)
