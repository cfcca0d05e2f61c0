"""Choices among candidates, measured: how probes and controls order the candidates of one prompt at one step, at several layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from safesteer_interp.errors import InputError, NotApplicableError
from safesteer_interp.runner.context import Context
from safesteer_interp.sites import Site
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import PAPER_ATTACKS
from ._shared import site_label

SITE = "final_norm"
GUIDING = ("prompt", "token", "contrastive")
IDENTITY, EMBEDDING, LOG_P, CHANCE = "token_identity", "embedding", "log_probability", "random_direction"


@runtime_checkable
class RollsOut(Protocol):
    """Parameters of an analysis that rolls candidates out."""

    @property
    def choice_pairs(self) -> int:
        """Pairs of the fit split, and of the test split."""

    @property
    def k(self) -> int:
        """Candidates a step."""

    @property
    def choice_steps(self) -> int:
        """First steps."""

    @property
    def depths(self) -> tuple[float, ...]:
        """Where else they are scored, as shares of the decoder's depth."""

    @property
    def random_directions(self) -> int:
        """Random directions that the order is held against."""

    @property
    def batch(self) -> int:
        """Answers per batch."""


def offers_of(ctx: Context, p: RollsOut, specs: Sequence[TraceSpec]) -> dict[str, dict[Any, Any]]:
    """Labelled candidates of the first steps of training and of test requests, with their states at some layers and the final norm."""
    from safesteer_interp.decoding.rollouts import RollOut, offered_at, ranked

    last = ctx.n_layers - 1
    layers = dict.fromkeys(f"resid_post.{min(last, round(depth * last))}" for depth in p.depths)
    sites, how = [Site.parse(name) for name in [*layers, SITE]], RollOut(k=p.k, steps=p.choice_steps)
    found = {}
    for split, spec in zip(("training", "test"), specs, strict=True):
        some = ranked([r for r in ctx.requests(spec) if r.attack in PAPER_ATTACKS], p.choice_pairs)
        found[split] = offered_at(ctx.answerer, some, sites, how, batch_size=p.batch)
    return found


def guiding_layers(fit: Any, offers: dict[str, dict[Any, Any]]) -> pd.DataFrame:
    """How probes that read the candidates at each layer order those of one test prompt at one step: a layer ablation of the defense."""
    from safesteer_interp.probes.fits import fit_contrastive, fit_prompt, fit_token, scores_of
    from safesteer_interp.probes.signs import preferences
    from safesteer_interp.probes.tokens import token_states

    rows, everything = [], np.ones(len(fit), dtype=bool)
    for site, test in offers["test"].items():
        made: dict[str, Any] = {"prompt": fit_prompt(fit.rows(site, "last_prompt"), fit.labels.harmful)}
        with suppress(InputError):
            made["token"] = fit_token(token_states(fit, everything, steps=range(1, 6), site=site))
        with suppress(InputError):
            made["contrastive"] = fit_contrastive(offers["training"][site])
        for name, probe in made.items():
            part = preferences(scores_of(probe, test), test)
            if part["pair"].nunique() > 1:
                rows.append({"fit": name, "layer": site_label(site)} | _share(part).as_row())
    return pd.DataFrame(rows)


def orders(
    ctx: Context, p: RollsOut, probes: dict[str, Any], offers: dict[str, dict[Any, Any]]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The order of candidates by every scorer, differences to token identity, and each probe's sign test."""
    from safesteer_interp.probes.fits import fit_contrastive, scores_of
    from safesteer_interp.probes.signs import preferences, sign_test
    from safesteer_interp.statistics import Estimate

    training, test = (offers[split][Site.parse(SITE)] for split in ("training", "test"))
    guiding = {name: probes[name] for name in GUIDING if name in probes}
    with suppress(InputError):
        guiding["contrastive"] = fit_contrastive(training)
    scorers = {name: scores_of(probe, test) for name, probe in guiding.items()}
    scorers |= {IDENTITY: _identity(training, test), EMBEDDING: _embedding(ctx, training, test), LOG_P: test.log_probs.astype(float)}
    found = {name: preferences(values, test) for name, values in scorers.items() if values is not None}
    if not len(found[LOG_P]):
        raise NotApplicableError("no choice among candidates of the test requests can go either way: all lead to refusals, or none does.")
    rows, gaps, tests = [], [], []
    for name, part in found.items():
        rows.append({"scorer": name, "step": "all"} | _share(part).as_row())
        rows += [{"scorer": name, "step": str(step)} | _share(own).as_row() for step, own in part.groupby("step")]
    for name in [n for n in GUIDING if n in found]:
        gap = found[name].assign(value=0.5 + (found[name]["value"] - found[IDENTITY]["value"]) / 2)
        share = _share(gap)
        gaps.append({"scorer": name, "compared_with": IDENTITY} | _shifted(share).as_row())
        test_of = sign_test(scorers[name], test)
        passed = bool(test_of is not None and test_of.passed)
        tests.append({"scorer": name, "passed": passed, "choices": len(found[name]), "pairs": found[name]["pair"].nunique()})
    for name, probe in guiding.items():
        drawn = _random_shares(test, probe.random_directions(p.random_directions, seed=ctx.seed(f"directions of {name}")))
        rows.append({"scorer": chance_of(name), "step": "all"} | Estimate.of_draws(np.abs(drawn - 0.5)).as_row())
    return pd.DataFrame(rows), pd.DataFrame(gaps), pd.DataFrame(tests)


def _share(found: pd.DataFrame) -> Any:
    """The share ordered rightly, steps and forms counted alike."""
    from safesteer_interp.probes.signs import stratified

    return stratified(found)


def chance_of(fit: str) -> str:
    """The name of a fit's null: random directions within its own components."""
    return f"{CHANCE} ({fit})"


def _random_shares(test: Any, directions: Any) -> Any:
    """[directions] the share of (refusing, complying) pairs that each orders rightly, steps and forms counted alike."""
    projected = test.states.astype(np.float64) @ directions.T
    found, strata = [], []
    for rows in test.choices():
        labels = test.refusal[rows]
        if labels.any() and not labels.all():
            gap = projected[rows][labels][:, None] - projected[rows][~labels][None]
            found.append(((gap > 0) + 0.5 * (gap == 0)).mean(axis=(0, 1)))
            strata.append(f"{test.forms[rows[0]]} {test.steps[rows[0]]}")
    values, codes = np.array(found), np.unique(strata, return_inverse=True)[1]
    return np.mean([values[codes == stratum].mean(axis=0) for stratum in range(codes.max() + 1)], axis=0)


def _shifted(share: Any) -> Any:
    """A difference d that was tested as 0.5 + d / 2 against 0.5, as the difference itself."""
    from dataclasses import replace

    return replace(share, value=2 * (share.value - 0.5), low=2 * (share.low - 0.5), high=2 * (share.high - 0.5), against=0.0)


def _identity(training: Any, test: Any) -> Any:
    """Each candidate's score by what it is: refusal rate of that token at that step among training candidates (else the step's)."""
    rates = pd.DataFrame({"step": training.steps, "token": training.tokens, "refusal": training.refusal.astype(float)})
    by_token = rates.groupby(["step", "token"])["refusal"].mean()
    by_step = rates.groupby("step")["refusal"].mean()
    keys = pd.MultiIndex.from_arrays([test.steps, test.tokens])
    usual = pd.Series(test.steps).map(by_step).fillna(rates["refusal"].mean()).to_numpy()
    known = by_token.reindex(keys).to_numpy()
    return np.where(np.isnan(known), usual, known)


def _embedding(ctx: Context, training: Any, test: Any) -> Any:
    """The score of a probe like the others, fitted on the candidates' input embeddings alone; None where training candidates agree."""
    from safesteer_interp.probes.decoding_probe import DecodingProbe

    if training.refusal.all() or not training.refusal.any():
        return None
    weight = ctx.model.model.get_input_embeddings().weight
    rows = [weight[list(map(int, each.tokens))].detach().float().cpu().numpy() for each in (training, test)]
    return DecodingProbe().fit(rows[0], training.refusal.astype(int)).decision_function(rows[1])
