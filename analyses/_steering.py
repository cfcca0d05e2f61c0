"""What analyses of steering share: refusal of the first token, the layer to steer at, vectors and random ones in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack, Split
from safesteer_interp.runner.claim import Claim, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import Paired, fit_spec, row

SITE = "final_norm"
TOP = 5
"""Candidates among which a refusal token has to be for SafeSteer to choose it (K = 5)."""
CLASSES = ("harmful", "harmless")
TWINS = "harmful minus harmless"


@runtime_checkable
class Tuned(Paired, Protocol):
    """Parameters of an analysis that makes choices on validation pairs."""

    @property
    def tuning_pairs(self) -> int | None:
        """Validation pairs; None: all."""


def validation_spec(p: Tuned, attacks: Sequence[Attack] = (Attack.SD,)) -> TraceSpec:
    """Validation pairs with their pictures, which choices are made on."""
    return TraceSpec(attacks=tuple(attacks), split=Split.VALIDATION, pairs=p.tuning_pairs)


def vector_spec(p: Paired) -> TraceSpec:
    """What the alignment vector is fitted on: both forms of the training pairs, and their harmless twins."""
    return fit_spec(p, attacks=(Attack.CB, Attack.SD), sites=(SITE,))


def text_spec(p: Paired) -> TraceSpec:
    """What the refusal direction is fitted on: training requests with the harm in the words."""
    return fit_spec(p, attacks=(Attack.TEXT, Attack.CB), sites=("resid_post",))


def first_token(ctx: Context, states: Any, tokens: Sequence[int], bias: float = 0.0) -> dict[str, np.ndarray]:
    """Quantities [n] of the first answer token, from states [n, d] at the final norm: log-odds and probability `mass` of a refusal token
    (one of `tokens`), and `top_K`: one is among the K most probable. `bias` is added to the refusal tokens' logits first."""
    import torch
    from scipy.special import expit

    from safesteer_interp.steering.selection import refusal_score

    tokens = list(tokens)
    logits = ctx.head(np.asarray(states), normed=True)
    odds = refusal_score(torch.from_numpy(logits), tokens).double().numpy() + bias
    others = np.delete(logits, tokens, axis=1)
    rank = 1 + (others > logits[:, tokens].max(axis=1, keepdims=True) + bias).sum(axis=1)
    return {"log_odds": odds, "mass": expit(odds), **{f"top_{k}": (rank <= k).astype(float) for k in (1, TOP)}}


def steering_direction(ctx: Context, p: Any, tokens: Sequence[int]) -> tuple[Any, pd.DataFrame]:
    """The refusal direction to steer with, of the candidate layers (`layers` of them, in the first 80 %), and what each does.

    Directions are fitted on training requests in words. The layer is chosen on validation pairs (`chosen_layer`) by what adding the
    difference of the class means to the last prompt token does there.
    """
    from safesteer_interp.decoding.late import first_states
    from safesteer_interp.defenses.steered import Steered
    from safesteer_interp.statistics import cluster_mean
    from safesteer_interp.vectors.refusal import eligible, refusal_directions

    possible = eligible(refusal_directions(ctx.trace(text_spec(p))), ctx.n_layers)
    candidates = [possible[i] for i in sorted({round(x) for x in np.linspace(0, len(possible) - 1, p.layers)})]
    requests = ctx.requests(validation_spec(p))
    states = first_states(ctx.model, requests, [(), *(Steered.along(candidate, 1.0).given for candidate in candidates)])
    plain, *steered = (first_token(ctx, each, tokens)["log_odds"] for each in states)
    harmful, pairs = np.array([r.harmful for r in requests]), np.array([r.pair for r in requests])
    rows = []
    for candidate, odds in zip(candidates, steered, strict=True):
        for of, (change, own) in by_class(odds - plain, harmful, pairs).items():
            rows.append({"layer": candidate.site.layer, "of": of} | cluster_mean(change, own, seed=ctx.seed("bootstrap")).as_row())
    found = pd.DataFrame(rows)
    best = chosen_layer(found)
    return next(c for c in candidates if c.site.layer == best), found.assign(chosen=found["layer"] == best)


def chosen_layer(found: pd.DataFrame) -> int:
    """Of the layers that raise refusal of harmful pictures, their interval clear of 0, the one that raises it most beyond that of harmless
    twins; of all layers where none is clear of 0, which a reader of the table has to ask of the chosen one."""
    acting = found[(found["of"] == CLASSES[0]) & (found["low"] > 0)]["layer"]
    among = found[(found["of"] == TWINS) & (found["layer"].isin(acting) | acting.empty)]
    return int(among.sort_values("value", ascending=False).iloc[0]["layer"])


def layer_check(selection: pd.DataFrame) -> Claim:
    """Whether the chosen layer does anything, as a check; its note, which claims about the direction carry too, says what it does."""
    chosen = selection[selection["chosen"]]
    acts = estimate_of(row(chosen, of=CLASSES[0]))
    return Claim(
        id="refusal_layer_acts",
        kind="sanity",
        statement="On validation pairs, the refusal direction at the layer chosen for it makes refusals of harmful pictures likelier.",
        estimate=acts,
        direction="above",
        threshold=0.0,
        unit="nats of log-odds, paired difference",
        note=f"Layer {int(chosen.iloc[0]['layer'])} was chosen on validation pairs, where adding the direction there raises the log-odds "
        f"that the answer to a harmful picture begins with a refusal by {acts.format()} nats."
        + ("" if acts.low > 0 else " That is not clear of 0, at this or any candidate layer: nothing is claimed of the direction."),
    )


def by_class(
    values: np.ndarray, harmful: np.ndarray, pairs: np.ndarray, forms: np.ndarray | None = None
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """(values, pairs) of harmful requests, of harmless ones, and of harmful ones minus their twins. There is one request of a pair and
    class, or one in each of several forms, which `forms` names."""
    keys = list(pairs) if forms is None else list(zip(pairs, forms, strict=True))
    place = {side: {key: i for i, key in enumerate(keys) if harmful[i] == side} for side in (True, False)}
    both = [(i, place[False][key]) for key, i in place[True].items() if key in place[False]]
    bad, good = (np.array([each[side] for each in both], dtype=int) for side in (0, 1))
    return {
        CLASSES[0]: (values[harmful], pairs[harmful]),
        CLASSES[1]: (values[~harmful], pairs[~harmful]),
        TWINS: (values[bad] - values[good], pairs[bad]),
    }


def random_of_each_pair(make: Any, requests: Sequence[Any], seed: int) -> list[tuple[Any, list[Any]]]:
    """(`make(seed)`, requests of one pair) for every pair: a random vector of its own, so that a mean over pairs is one over vectors."""
    by_pair: dict[str, list[Any]] = {}
    for request in requests:
        by_pair.setdefault(request.pair, []).append(request)
    return [(make(seed + i), own) for i, own in enumerate(by_pair.values())]


def over_vectors(means: Any, n: int) -> dict[str, Any]:
    """The mean over several random vectors with the central 95 % of the vectors: a spread."""
    from safesteer_interp.statistics import Estimate

    return Estimate.of_draws(means).as_row() | {"n": n}
