"""What each application rule of MSAV does to the first token of test requests, with and without SafeSteer's gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.context import Context
from safesteer_interp.statistics import DIFFERENCE, OUTCOME, Estimate, cluster_mean, cluster_rate

from ._shared import attacks_in
from ._steering import CLASSES, TWINS, first_token

if TYPE_CHECKING:  # a finding is drawn without torch
    from safesteer_interp.tracing.view import TraceView

IMAGE = "image"
"""The three forms with the harm in the image, taken together."""
EVERY, GATED = "every request", "probe says harmful"
CORRECTED, PRINTED, PROJECTION = "toward_text/unit", "printed/raw", "toward_text/projection"
RULES = (PRINTED, "printed/unit", "toward_text/raw", CORRECTED, PROJECTION, "random/raw", "random/unit")
TWINNED = ("log_odds", "top_1", "becomes_top_1")
TWICE = (2 * DIFFERENCE[0], 2 * DIFFERENCE[1])
"""Bounds of a difference of two differences of outcomes."""


def rule_effects(
    ctx: Context, defense: Any, report: TraceView, tokens: Sequence[int], random_vectors: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Per rule, gate, form and class: refusal `log_odds` and `mass` of the first token, `top_K` = a refusal token is among the K most
    probable; then each of them minus the same request unedited, `becomes_top_1`: a refusal token is the most probable only now, and
    `enters_top_5`: the same of the 5 most probable, of the requests that had none among them."""
    import torch

    states, seed = torch.from_numpy(report.rows("final_norm", "last_prompt")), ctx.seed("bootstrap")
    effects, sample = _effects(ctx, defense, states, tokens, random_vectors), _Sample.of(report.index)
    called = np.array([bool(verdict["harmful"]) for verdict in defense.opening(states).verdicts], dtype=float)
    values, contrasts = [], []
    for rule, gate in [("none", EVERY), *((r, g) for r in RULES for g in (EVERY, GATED))]:
        after, change = _gated(effects[rule], effects["none"], np.ones(len(called)) if gate == EVERY else called)
        for form in [*attacks_in(report.index), IMAGE]:
            head = {"rule": rule, "gate": gate, "attack": form}
            values += [head | found for found in _by_class(after, sample, form, OUTCOME, seed)]
            values += [head | found for found in _between_twins(after, sample, form, DIFFERENCE, seed, ("mass",))]
            if rule != "none":
                contrasts += [
                    head | found
                    for found in (*_by_class(change, sample, form, DIFFERENCE, seed), *_between_twins(change, sample, form, TWICE, seed))
                ]
                contrasts += [head | found for found in _entering(after, effects["none"], sample, form, seed)]
    return pd.DataFrame(values), pd.DataFrame(contrasts)


Effect: TypeAlias = dict[str, np.ndarray]
"""Quantity -> its value [vectors, requests] under one rule; one vector, or as many as were drawn."""


@dataclass(frozen=True)
class _Sample:
    """The test requests as arrays [n]: what the tables are grouped by."""

    attack: np.ndarray
    pairs: np.ndarray
    harmful: np.ndarray
    twins: pd.DataFrame
    """Row numbers `bad` and `good` of the two sides of a pair in one form."""

    @classmethod
    def of(cls, index: pd.DataFrame) -> _Sample:
        harmful = index["harmful"].to_numpy(bool)
        rows = index[["pair", "attack"]].assign(bad=np.arange(len(index)), good=np.arange(len(index)))
        twins = rows.loc[harmful].drop(columns="good").merge(rows.loc[~harmful].drop(columns="bad"), on=["pair", "attack"])
        return cls(index["attack"].to_numpy(str), index["pair"].to_numpy(str), harmful, twins)

    def of_form(self, form: str) -> np.ndarray:
        """[n] True for the requests of one attack, or of all with the harm in the image."""
        return np.asarray(self.attack != str(Attack.CB) if form == IMAGE else self.attack == form)


def _effects(ctx: Context, defense: Any, states: Any, tokens: Sequence[int], random_vectors: int) -> dict[str, Effect]:
    """Rule -> what the first token is like once the prompt states [n, d] are moved by it; "none": as they are."""
    from safesteer_interp.vectors.alignment import ApplicationRule

    found = {"none": {q: x[None] for q, x in first_token(ctx, states, tokens).items()}}
    first = ctx.seed("random vectors")
    drawn = [defense.vector.random(seed) for seed in range(first, first + random_vectors)]
    for name in ctx.track(RULES, "rules"):
        sign, norm = name.split("/")
        runs = [(v, "toward_text") for v in drawn] if sign == "random" else [(defense.vector, sign)]
        each = [first_token(ctx, vector.apply(states, ApplicationRule(s, norm)), tokens) for vector, s in runs]
        found[name] = {q: np.stack([run[q] for run in each]) for q in found["none"]}
    return found


def _gated(effect: Effect, plain: Effect, acts: np.ndarray) -> tuple[Effect, Effect]:
    """(After, change) of an edit on the requests where `acts` is 1; where the gate is shut a request stays as it was."""
    change = {q: acts * (effect[q] - plain[q]) for q in plain}
    after = {q: plain[q] + change[q] for q in plain}
    change["becomes_top_1"] = after["top_1"] * (1 - plain["top_1"])
    return after, change


def _by_class(effect: Effect, sample: _Sample, form: str, bounds: tuple[float, float], seed: int) -> list[dict[str, Any]]:
    """Mean of every quantity over the harmful and over the harmless requests of a form."""
    rows = []
    for kind, side in zip(CLASSES, (sample.harmful, ~sample.harmful), strict=True):
        at = sample.of_form(form) & side
        for q, x in effect.items():
            limits = None if q == "log_odds" else OUTCOME if q == "becomes_top_1" else bounds
            rows.append({"class": kind, "quantity": q} | _mean(x[:, at], sample.pairs[at], limits, seed))
    return rows


def _between_twins(
    effect: Effect, sample: _Sample, form: str, bounds: tuple[float, float], seed: int, quantities: Sequence[str] = TWINNED
) -> list[dict[str, Any]]:
    """What holds of a harmful request minus what holds of its harmless twin."""
    bad, good = (sample.twins[side].to_numpy()[sample.of_form(form)[sample.twins["bad"]]] for side in ("bad", "good"))
    return [
        {"class": TWINS, "quantity": q}
        | _mean(effect[q][:, bad] - effect[q][:, good], sample.pairs[bad], None if q == "log_odds" else bounds, seed)
        for q in quantities
    ]


def _entering(after: Effect, plain: Effect, sample: _Sample, form: str, seed: int) -> list[dict[str, Any]]:
    """By class: the share that have a refusal token among the 5 most probable now, of those that had none; nothing where all had one."""
    rows = []
    for kind, side in zip(CLASSES, (sample.harmful, ~sample.harmful), strict=True):
        at = sample.of_form(form) & side & (plain["top_5"][0] == 0)
        if at.any():
            entered = after["top_5"][:, at]
            found = cluster_rate(entered[0], sample.pairs[at], seed=seed) if len(entered) == 1 else Estimate.of_draws(entered.mean(axis=1))
            rows.append({"class": kind, "quantity": "enters_top_5"} | found.as_row())
    return rows


def _mean(x: np.ndarray, pairs: np.ndarray, bounds: tuple[float, float] | None, seed: int) -> dict[str, Any]:
    """Mean of x [vectors, requests]: of one vector with the interval over pairs, of several with the central 95 % of the vectors."""
    if len(x) > 1:
        return Estimate.of_draws(x.mean(axis=1)).as_row() | {"n": x.size}
    if bounds == OUTCOME and np.isin(x, OUTCOME).all():
        return cluster_rate(x[0], pairs, seed=seed).as_row()
    return cluster_mean(x[0], pairs, bounds=bounds, seed=seed).as_row()
