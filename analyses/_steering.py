"""What analyses of steering share: refusal log-odds of the first token, the layer to steer at, and means over pairs or over vectors."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.context import Context
from safesteer_interp.statistics import Estimate
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import training_spec
from ._shared import Paired, fit_spec


@runtime_checkable
class Tuned(Paired, Protocol):
    """Parameters of an analysis that chooses the layer to steer at."""

    @property
    def layers(self) -> int:
        """Candidate layers."""

    @property
    def tuning_pairs(self) -> int:
        """Training pairs that the layer is chosen on."""


def tuning_spec(p: Tuned) -> TraceSpec:
    """Training pairs (`tuning_pairs`) with their pictures, which the layer is chosen on."""
    return fit_spec(p, attacks=(Attack.SD,), sites=("final_norm",), pairs=p.tuning_pairs)


def refusal_log_odds(ctx: Context, states: Any) -> Any:
    """[n] log-odds that the first token is a refusal token, from states [n, d] at the final norm."""
    import torch

    from safesteer_interp.models.openings import refusal_token_ids
    from safesteer_interp.steering.selection import refusal_score

    ids = list(refusal_token_ids(ctx.model))
    return refusal_score(torch.from_numpy(ctx.head(states, normed=True)), ids).double().numpy()


def steering_direction(ctx: Context, p: Tuned) -> tuple[Any, pd.DataFrame]:
    """The refusal direction at the candidate layer (`layers` of them, in the first 80 %) where adding the difference of the class means
    raises refusal of harmful pictures most, and what it does at each. Both from training pairs."""
    from safesteer_interp.defenses.steered import Steered
    from safesteer_interp.statistics import cluster_mean
    from safesteer_interp.vectors.refusal import eligible, refusal_directions

    fit, tuning = ctx.trace(training_spec(p)), ctx.trace(tuning_spec(p))
    layered = [site for site in fit.sites_in_order if site.layer is not None]
    possible = eligible(refusal_directions(fit, sites=layered), ctx.n_layers)
    candidates = [possible[i] for i in sorted({round(x) for x in np.linspace(0, len(possible) - 1, p.layers)})]
    plain = refusal_log_odds(ctx, tuning.rows("final_norm", "last_prompt"))
    harmful, pairs = tuning.labels.harmful, tuning.labels.pairs
    rows, seed = [], ctx.seed("bootstrap")
    for candidate in ctx.track(candidates, "layers"):
        edits = Steered.along(candidate, 1.0).given
        trace = ctx.collect(tuning.requests, sites="final_norm", reads="last_prompt", edits=edits)
        gain = refusal_log_odds(ctx, trace.rows("final_norm", "last_prompt")) - plain
        for of, side in (("harmful", harmful), ("harmless", ~harmful)):
            rows.append({"layer": candidate.site.layer, "of": of} | cluster_mean(gain[side], pairs[side], seed=seed).as_row())
    found = pd.DataFrame(rows)
    best = found[found["of"] == "harmful"].sort_values("value", ascending=False).iloc[0]["layer"]
    return next(c for c in candidates if c.site.layer == best), found.assign(chosen=found["layer"] == best)


def over_vectors(means: Any, n: int) -> dict[str, Any]:
    """The mean over several random vectors with the central 95 % of the vectors: which vector was drawn matters more than which pair."""
    return Estimate.of_draws(means).as_row() | {"n": n}
