"""What the analyses of causes share: pairs of forms, what is measured of an intervened pass, and effects as shares of a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from safesteer_interp.files import read_json, safe_name, write_json
from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.context import Context
from safesteer_interp.tracing.spec import TraceSpec

from ._refusal_tokens import refusal_tokens, tokens_spec
from ._shared import Paired, fit_spec, report_spec

QUANTITIES = ("refusal", "probe")
"""What is measured: log-odds that the first token refuses, and the probe's log-odds of harm at the final norm."""
EXTREMES = (-1.0, 2.0)
"""Shares of the gap that a pair not seen may have, where all that were seen agree."""
DONOR = Attack.CB
"""The text form that has an image too, a blank one: both forms have the same tokens but for text and picture."""


FITTED = 32
"""Pairs that the probe is fitted on: as many as other findings fit theirs on, whose traces then hold them."""


@runtime_checkable
class Caused(Paired, Protocol):
    """Parameters of an analysis that intervenes on pairs."""

    @property
    def attacks(self) -> tuple[str, ...]:
        """Forms whose harm lies in the image."""


def specs(p: Caused) -> list[TraceSpec]:
    """The pairs that are intervened on, those the probe is fitted on, and the texts that refusal tokens are found on."""
    forms = tuple(Attack(a) for a in (DONOR, *p.attacks))
    fitted = None if p.pairs is None else max(p.pairs, FITTED)
    return [report_spec(p, attacks=forms, sites=("final_norm",)), fit_spec(p, sites=("final_norm",), pairs=fitted), tokens_spec(p)]


def forms(ctx: Context, p: Caused) -> dict[str, dict[tuple[str, bool], Request]]:
    """The requests that are intervened on: pair -> (attack, harmful) -> request; pairs that lack a form are left out."""
    found: dict[str, dict[tuple[str, bool], Request]] = {}
    for request in ctx.requests(specs(p)[0]):
        found.setdefault(request.pair, {})[str(request.attack), request.harmful] = request
    wanted = {(str(a), side) for a in (DONOR, *p.attacks) for side in (True, False)}
    return {pair: by_form for pair, by_form in found.items() if wanted <= by_form.keys()}


def refusal_meter(ctx: Context, p: Paired) -> Callable[[Any], Any]:
    """States after the final norm [rows, d] -> refusal log-odds of the first token [rows], in nats; differentiable."""
    from safesteer_interp.models.head import logits
    from safesteer_interp.steering.selection import refusal_score

    tokens = list(refusal_tokens(ctx, p))
    return lambda states: refusal_score(logits(ctx.model, states), tokens)


def fitted_probe(ctx: Context, p: Caused) -> Any:
    """The probe of harm at the final norm of the last prompt token, fitted on the fitting pairs."""
    from safesteer_interp.probes.fits import fit_prompt

    view = ctx.trace(specs(p)[1])
    return fit_prompt(view.rows("final_norm", "last_prompt"), view.labels.harmful)


def meter(ctx: Context, p: Caused) -> Callable[[Any], Any]:
    """States after the final norm [rows, d] -> [rows, 2]: `QUANTITIES`, in nats."""
    import torch

    refusal, probe = refusal_meter(ctx, p), fitted_probe(ctx, p)

    @torch.no_grad()
    def measure(states: Any) -> Any:
        harm = torch.from_numpy(np.asarray(probe.decision_function(states.float().cpu().numpy()), dtype=float))
        return torch.stack([refusal(states).double().cpu(), harm], dim=-1)

    return measure


def meter_gradients(ctx: Context, p: Caused) -> list[Callable[[Any], Any]]:
    """`QUANTITIES` once more, each a differentiable number of the last token's final state [1, d]."""
    import torch

    refusal, weight = refusal_meter(ctx, p), torch.from_numpy(np.asarray(fitted_probe(ctx, p).weight_, dtype=np.float32))
    return [lambda states: refusal(states)[0], lambda states: (states.float() @ weight.to(states.device))[0]]


Rows = dict[str, list[dict[str, Any]]]
"""Rows of several tables, by the table's name."""


def pair_by_pair(ctx: Context, label: str, items: Mapping[str, Any], measured: Callable[[str, Any], Rows]) -> dict[str, pd.DataFrame]:
    """The rows that `measured(pair, item)` gives of every pair, joined by table. Each pair is written down in the run's working folder as
    soon as it is done, so that a run that was stopped goes on there; the folder belongs to one set of inputs and parameters."""
    found: Rows = {}
    for pair, item in ctx.track(items.items(), label):
        kept = ctx.work_dir / f"{safe_name(f'{label} {pair}')}.json"
        if kept.is_file():
            rows = read_json(kept)
        else:
            rows = measured(pair, item)
            write_json(kept, rows)
        for name, lot in rows.items():
            found.setdefault(name, []).extend(lot)
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def layer_grid(n_layers: int, wanted: int | None) -> list[int]:
    """At most so many layers, evenly spaced, the first and the last among them; None: all."""
    count = n_layers if wanted is None else min(wanted, n_layers)
    return sorted({round(x) for x in np.linspace(0, n_layers - 1, count)})


def at_depth(layers: Iterable[int], share: float) -> int:
    """The layer nearest to a share of the depth of those measured."""
    known = sorted({int(layer) for layer in layers})
    return min(known, key=lambda layer: (abs(layer - share * known[-1]), layer))


def share(effect: Any, gap: Any, pairs: Any, *, against: float = 0.0, minus: Any = None, seed: int = 0) -> dict[str, Any]:
    """Columns of a row: mean effect over mean gap (both per pair), or its difference to the share of another effect (`minus`).

    A ratio of means, since a pair whose forms are refused alike has no gap to share; interval and p from the jackknife over pairs.
    """
    from safesteer_interp.statistics import cluster_jackknife

    change = np.asarray(effect, dtype=float) - (0.0 if minus is None else np.asarray(minus, dtype=float))

    def ratio(top: Any, bottom: Any) -> float:
        return float(top.mean() / bottom.mean())

    rows, of = [change, np.asarray(gap, dtype=float)], np.asarray(pairs)
    found = cluster_jackknife(ratio, rows, of, against=against, seed=seed)
    if np.isfinite(found.value) and not np.isfinite(found.low):  # all pairs agree to the bit: bounds say how far others may lie off
        found = cluster_jackknife(ratio, rows, of, against=against, bounds=EXTREMES, seed=seed)
    return found.as_row()
