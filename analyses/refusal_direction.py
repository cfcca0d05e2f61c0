"""At which layer is there a refusal direction, do the data decide which, and does it carry refusals of requests in images as well?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack, Split
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.statistics import cluster_mean
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import ATTACKS, attacks_in, fit_spec, report_spec, row
from ._steering import over_vectors, refusal_log_odds

if TYPE_CHECKING:  # a finding is drawn without torch
    from safesteer_interp.tracing.tracer import Edit
    from safesteer_interp.tracing.view import TraceView
    from safesteer_interp.vectors.direction import Direction

KL_LIMIT = 0.1
"""Nats: the limit of arXiv 2406.11717 appendix C."""
MARGIN = 0.5
"""Nats of log-odds that an effect must exceed: any vector moves a state, and small effects of one sign are no refusal direction."""
QUANTITIES = ("bypass", "induce", "kl")
CHOSEN, RANDOM = "refusal_direction", "random_direction"
EFFECTS = (("ablate", "harmful"), ("add", "harmless"), ("ablate", "harmless"))
"""What is done to which requests: does refusal go, does it come, and (of requests in words) is everything else left alone."""


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Training pairs, as text, that the candidates are the differences of class means of."""
    layers: int | None = 10
    """Candidate layers, evenly spaced over the first 80 %; None: every one."""
    validation_pairs: int | None = 8
    """Validation pairs, as text, that the choice is made on."""
    report_pairs: int | None = 24
    """Test pairs that the effects of the chosen direction are measured on, in every form."""
    attacks: tuple[str, ...] = ("TEXT", "SD")
    """The forms of the test requests; TEXT must be among them."""
    random_directions: int = 4
    """Random directions in place of the chosen one, with its site and length, each followed by its opposite."""
    seed: int = 0
    """Seed of the bootstrap and of everything random."""


def needs(p: Params) -> list[TraceSpec]:
    return [_fit(p), _validation(p), _report(p)]


def _fit(p: Params) -> TraceSpec:
    return fit_spec(p, attacks=(Attack.TEXT,), sites=("resid_post",))


def _validation(p: Params) -> TraceSpec:
    return TraceSpec(attacks=(Attack.TEXT,), split=Split.VALIDATION, pairs=p.validation_pairs)


def _report(p: Params) -> TraceSpec:
    return report_spec(p, attacks=tuple(Attack(a) for a in p.attacks), sites=("final_norm",), pairs=p.report_pairs)


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`selection`: what editing with each candidate does to validation requests; `effects`: what the chosen one and random ones do to
    test requests, by form.

    Candidates are differences of class means at the last prompt token of training requests in words. Unlike in arXiv 2406.11717 no
    request is dropped for its refusal score, and other template tokens than the last give no candidates.
    """
    chosen, selection = _selected(ctx, p)
    return {"selection": selection, "effects": _effects(ctx, chosen, p)}


def _selected(ctx: Context, p: Params) -> tuple[Direction, pd.DataFrame]:
    """The direction that was chosen and, per candidate and quantity, its mean with what it is `plain`, without an edit; `limit` says
    on which side of the KL limit the candidate's interval lies. Where no candidate is kept the nearest miss is taken: the lowest bypass
    among those that induce refusal, if any does."""
    from safesteer_interp.models.openings import refusal_token_ids
    from safesteer_interp.steering.selection import select_refusal_direction
    from safesteer_interp.vectors.refusal import eligible, refusal_directions

    possible = eligible(refusal_directions(ctx.trace(_fit(p)), attacks=(Attack.TEXT,)), ctx.n_layers)
    wanted = len(possible) if p.layers is None else p.layers
    candidates = [possible[i] for i in sorted({round(x) for x in np.linspace(0, len(possible) - 1, wanted)})]
    requests, progress = ctx.requests(_validation(p)), ctx.session.settings.progress
    harmful, harmless = ([r for r in requests if r.harmful is side] for side in (True, False))
    tokens = refusal_token_ids(ctx.model)
    found = select_refusal_direction(ctx.model, candidates, harmful, harmless, tokens, max_kl=KL_LIMIT, progress=progress)
    raising = found.table["induce"] > 0
    misses = found.table["bypass"][raising] if raising.any() else found.table["bypass"]
    chosen = found.chosen or candidates[int(misses.idxmin())]
    plain, rows = {"bypass": found.plain_harmful, "induce": found.plain_harmless, "kl": 0.0}, []
    for candidate, (_, measured) in zip(candidates, found.table.iterrows(), strict=True):
        side = "below" if measured["kl_high"] < KL_LIMIT else "above" if measured["kl_low"] > KL_LIMIT else "across"
        head = {"site": measured["site"], "layer": candidate.site.layer, "kept": measured["kept"], "limit": side}
        head["chosen"] = candidate is chosen
        for quantity in QUANTITIES:
            numbers = {end: measured[f"{quantity}{suffix}"] for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high"))}
            n = measured["n_harmful" if quantity == "bypass" else "n_harmless"]
            rows.append(head | {"quantity": quantity, "plain": plain[quantity]} | numbers | {"n": n})
    return chosen, pd.DataFrame(rows)


def _effects(ctx: Context, chosen: Direction, p: Params) -> pd.DataFrame:
    """Per form, class and edit, of the chosen direction (means over pairs) and of random ones (over them): `log_odds` of a refusal as
    the first token, minus the same request unedited, and the divergence `kl` of the first token from it."""
    from safesteer_interp.vectors.direction import random_direction

    seed, first = ctx.seed("bootstrap"), ctx.seed("random directions")
    drawn = [random_direction(chosen, first + i // 2) for i in range(p.random_directions)]
    randoms = [r.reversed() if i % 2 else r for i, r in enumerate(drawn)]
    plain = ctx.trace(_report(p))
    labels, rows = plain.labels, list[dict[str, Any]]()
    for edit, kind in EFFECTS:
        side = labels.harmful == (kind == "harmful")
        if (edit, kind) == EFFECTS[2]:
            side &= labels.attacks == Attack.TEXT
        pairs, forms = labels.pairs[side], labels.attacks[side]
        requests = [r for r, keep in zip(plain.requests, side, strict=True) if keep]
        before = plain.rows("final_norm", "last_prompt")[side]
        # The direction and its opposite are the same one to ablate.
        others = randoms[::2] if edit == "ablate" else randoms
        runs = [_changes(ctx, before, requests, _edit(ctx, edit, d)) for d in ctx.track([chosen, *others], f"{edit}, {kind}")]
        for form in attacks_in(pd.DataFrame({"attack": forms})):
            at, head = forms == form, {"attack": form, "class": kind, "edit": edit}
            for quantity in runs[0]:
                means = [run[quantity][at].mean() for run in runs[1:]]
                note = head | {"quantity": quantity}
                rows.append(note | {"of": CHOSEN} | cluster_mean(runs[0][quantity][at], pairs[at], seed=seed).as_row())
                rows.append(note | {"of": RANDOM} | over_vectors(means, len(means) * int(at.sum())))
        rows += _against_text(runs, forms, pairs, {"class": kind, "edit": edit}, seed)
    return pd.DataFrame(rows)


def _against_text(
    runs: list[dict[str, np.ndarray]], forms: np.ndarray, pairs: np.ndarray, head: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """`beyond_text`: the change of log-odds of a request in an image minus that of the same request in words."""
    text, rows = {pair: i for i, pair in enumerate(pairs) if forms[i] == Attack.TEXT}, []
    for form in [f for f in dict.fromkeys(forms) if f != Attack.TEXT]:
        at = np.array([i for i in np.flatnonzero(forms == form) if pairs[i] in text], dtype=int)
        if len(at):
            twin = [text[pairs[i]] for i in at]
            gaps, note = [run["log_odds"][at] - run["log_odds"][twin] for run in runs], head | {"attack": form, "quantity": "beyond_text"}
            rows.append(note | {"of": CHOSEN} | cluster_mean(gaps[0], pairs[at], seed=seed).as_row())
            rows.append(note | {"of": RANDOM} | over_vectors([gap.mean() for gap in gaps[1:]], (len(gaps) - 1) * len(at)))
    return rows


def _edit(ctx: Context, name: str, direction: Direction) -> Edit:
    """The two edits of the selection: the mean difference added at its site to every token, or the direction taken out everywhere."""
    from safesteer_interp.steering.edits import ablate, add
    from safesteer_interp.steering.schedule import Schedule, every_write

    if name == "add":
        return Schedule((direction.site,)).edit(add(direction, direction.raw_norm / direction.residual_norm))
    return Schedule(every_write(ctx.model)).edit(ablate(direction))


def _changes(ctx: Context, before: np.ndarray, requests: list[Any], edit: Edit) -> dict[str, np.ndarray]:
    """Quantity -> [n], of requests whose states at the final norm [n, d] were `before`, under an edit."""
    import torch

    from safesteer_interp.steering.selection import first_token_divergence

    trace: TraceView = ctx.collect(requests, sites="final_norm", reads="last_prompt", edits=[edit])
    after = trace.rows("final_norm", "last_prompt")
    logits = [torch.from_numpy(ctx.head(states, normed=True)) for states in (after, before)]
    odds = refusal_log_odds(ctx, after) - refusal_log_odds(ctx, before)
    return {"log_odds": odds, "kl": first_token_divergence(*logits).double().numpy()}


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    selection, effects = t["selection"], t["effects"]
    chosen = selection[selection["chosen"]]
    place = f"the refusal direction of layer {row(chosen, quantity='kl')['layer']}"

    def effect(of: str, edit: str, kind: str, attack: str, quantity: str = "log_odds") -> Any:
        return estimate_of(row(effects, of=of, edit=edit, attack=attack, quantity=quantity, **{"class": kind}))

    kl = selection[selection["quantity"] == "kl"]
    straddling = f"The KL intervals of {int((kl['limit'] == 'across').sum())} of {len(kl)} candidates reach across the limit."
    if not kl["kept"].any():
        straddling += " None meets both conditions; the nearest miss was taken."
    harmless_kl: dict[str, Any] = {"direction": "below", "threshold": KL_LIMIT, "unit": "nats"}
    near = Control("random directions, test pairs", effect(RANDOM, "ablate", "harmless", "TEXT", "kl"), kind="context")
    found = [
        Claim(
            id="choice_is_resolved",
            difference_to="the model without the ablation",
            statement=f"On validation pairs, ablating {place} changes harmless requests by less than the limit.",
            estimate=estimate_of(row(chosen, quantity="kl")),
            controls=(near,),
            note=straddling,
            **harmless_kl,
        ),
        Claim(
            id="spares_harmless_text",
            difference_to="the model without the ablation",
            statement=f"On test pairs, ablating {place} changes harmless requests in words by less than the same limit.",
            estimate=effect(CHOSEN, "ablate", "harmless", "TEXT", "kl"),
            controls=(near,),
            **harmless_kl,
        ),
    ]
    cases: list[tuple[str, str, str, str, Literal["above", "below"], float]] = [
        ("ablate", "harmful", "bypasses_refusal", f"Ablating {place} lowers the log-odds that the answer to harmful", "below", -MARGIN),
        ("add", "harmless", "induces_refusal", f"Adding {place} raises the log-odds that the answer to harmless", "above", MARGIN),
    ]
    found += [
        Claim(
            id=f"{name}_{attack.lower()}",
            statement=f"{words} {attack} requests starts with a refusal token by more than {MARGIN:g} nats.",
            estimate=effect(CHOSEN, edit, kind, attack),
            direction=direction,
            threshold=threshold,
            unit="nats of log-odds, paired difference",
            controls=(Control(RANDOM, effect(RANDOM, edit, kind, attack)),),
        )
        for edit, kind, name, words, direction, threshold in cases
        for attack in attacks_in(effects)
    ]
    found += [
        Claim(
            id=f"bypasses_less_than_text_{attack.lower()}",
            statement=f"Ablating {place} lowers refusal of harmful {attack} requests less than of the same requests in words.",
            estimate=effect(CHOSEN, "ablate", "harmful", attack, "beyond_text"),
            direction="above",
            threshold=0.0,
            unit="nats of log-odds, difference of paired differences",
            controls=(Control(RANDOM, effect(RANDOM, "ablate", "harmful", attack, "beyond_text")),),
            note="Requests that are not refused to begin with have less refusal to lose.",
        )
        for attack in attacks_in(effects[(effects["quantity"] == "beyond_text") & (effects["class"] == "harmful")])
    ]
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels
    from safesteer_interp.plotting.palette import RULE
    from safesteer_interp.plotting.panels.shared import reference_line

    fig, axes = new_figure(rows=2, cols=2, width="full", height=5.0)
    kinds = {"bypass": "harmful", "induce": "harmless", "kl": "harmless"}
    selection = t["selection"].assign(of=t["selection"]["quantity"].map(kinds))
    scores, kl = selection[selection["quantity"] != "kl"], selection[selection["quantity"] == "kl"]
    layer = int(row(kl, chosen=True)["layer"])
    panels.layer_curve(axes[0, 0], scores, by="of", kind="class", ylabel="refusal log-odds (nats)", reference=0.0, reference_label="")
    axes[0, 0].set_title("harmful: ablated; harmless: added")
    floor = max(float(kl["low"].min()) / 2, 1e-4)
    panels.layer_curve(axes[0, 1], kl.assign(low=kl["low"].clip(lower=floor)), by="of", kind="class", ylabel="KL under ablation (nats)",
                       reference=KL_LIMIT, reference_label="limit")  # fmt: skip
    axes[0, 1].set_yscale("log")
    axes[0, 1].set_title("what else ablation changes")
    for ax in axes[0]:
        for at in kl[kl["kept"]]["layer"]:
            ax.axvspan(at - 0.5, at + 0.5, color=RULE, alpha=0.5, linewidth=0, zorder=0)
        reference_line(ax, layer, "chosen", axis="x")
    effects = t["effects"][t["effects"]["quantity"] == "log_odds"]
    for ax, (edit, kind) in zip(axes[1], EFFECTS[:2], strict=True):
        part = effects[(effects["edit"] == edit) & (effects["class"] == kind)]
        part = part.assign(of=part["of"].replace(CHOSEN, kind))
        panels.forest(ax, part, label="attack", by="of", kind="class", reference=0.0, xlabel="change of refusal log-odds (nats)")
        ax.set_title(f"{kind} requests, direction {'ablated' if edit == 'ablate' else 'added'}")
    return {"figure": fig}


ANALYSIS = Analysis(
    id="refusal_direction",
    title="The refusal direction",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2406.11717",),
    attacks=(Attack.TEXT,),
    data=COMPARED,
    profiles={
        "full": {
            "pairs": None,
            "layers": None,
            "validation_pairs": None,
            "report_pairs": 32,
            "attacks": tuple(map(str, ATTACKS)),
            "random_directions": 16,
        }
    },
    order=10,
    captions={
        "figure": "Above: validation pairs in words; grey: candidates that are kept. Below: test pairs, the chosen direction. "
        "Bands and bars: 95 % over pairs; of random directions, over them."
    },
)
