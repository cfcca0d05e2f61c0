"""What is MSAV: a shift of modality, a push towards refusal words, or any push? Its parts and controls, on pictures of both classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import DataNeeds
from safesteer_interp.statistics import DIFFERENCE, OUTCOME, Estimate, cluster_mean
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import AnsweringParams, answered_together, to_answer
from ._refusal_tokens import refusal_tokens, tokens_spec
from ._shared import report_spec, row
from ._steering import CLASSES, SITE, TOP, TWINS, by_class, first_token, validation_spec, vector_spec

if TYPE_CHECKING:  # a finding is drawn without torch
    from safesteer_interp.steering.edits import Change
    from safesteer_interp.vectors.alignment import AlignmentVector

Tokens = tuple[int, ...]
NONE, MSAV, PROJECTION, SHIFT, REMAINDER, BIAS, RANDOM = (
    "none", "msav", "projection", "harmless_shift", "remainder", "refusal_bias", "random_direction",
)  # fmt: skip
ARMS = (MSAV, PROJECTION, SHIFT, REMAINDER, BIAS, RANDOM)
SPREAD = "random vectors"
"""Rows that say how the means under single random vectors differ from each other, each vector as long as the step of `of`."""
FIRST, ANSWER = ("mass", "log_odds", f"top_{TOP}"), ("not_refused", "degenerate")
COMPARED = ((SHIFT, REMAINDER), (PROJECTION, MSAV), (MSAV, RANDOM), (PROJECTION, RANDOM), *((arm, BIAS) for arm in ARMS if arm != BIAS))
"""Pairs of arms that are compared with each other; every arm is compared with "none" besides."""
NAMES = {
    NONE: "no edit",
    MSAV: "MSAV, distance",
    PROJECTION: "MSAV, projection",
    SHIFT: "harmless shift alone",
    REMAINDER: "remainder alone",
    BIAS: "bias on refusal words",
    RANDOM: "random vectors",
}


@dataclass(frozen=True)
class Params(AnsweringParams):
    answer_pairs: int | None = 24
    """Test pairs whose pictures are answered under every arm, harmful and harmless."""
    seeds: int = 1
    """Samples per request and arm, at temperature 1."""
    tuning_pairs: int | None = 16
    """Validation pairs that the size of the bias is matched on."""
    attacks: tuple[str, ...] = ("SD",)
    """Image attacks, each with a vector of its own."""
    random_vectors: int = 39
    """Random vectors that the first token is looked at under; in answers each pair has one of its own."""


def needs(p: Params) -> list[TraceSpec]:
    attacks = tuple(Attack(a) for a in p.attacks)
    fit = vector_spec(p)
    return [TraceSpec(**{**vars(fit), "attacks": (Attack.CB, *attacks)}), validation_spec(p, attacks), _report(p), tokens_spec(p)]


def _report(p: Params) -> TraceSpec:
    return report_spec(p, attacks=tuple(Attack(a) for a in p.attacks), pairs=p.answer_pairs, sites=(SITE,))


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: refusal of the first token and of whole answers under every arm, by attack and class; `contrasts`: the same requests under
    two arms; `bias`: how large the bias is, and what it was matched to.

    mu = mean(picture) - mean(CB) of harmful training pairs has two parts: mu_H, the same of their harmless twins, and the remainder. MSAV
    moves a state towards text by its distance to mean(CB) along mu/|mu|, the projection only as far as the state lies along mu, and the
    parts are taken off as they are. The bias raises the logits of refusal tokens by so much that harmful validation pictures start with
    one as often as under MSAV. All act on the first answer token only, so that its distribution follows from stored states.
    """
    from safesteer_interp.defenses.refusal_bias import RefusalBias

    tables, contrasts, matched, tokens = [], [], [], refusal_tokens(ctx, p)
    for attack in p.attacks:
        vector, shared = _vectors(ctx, p, attack)
        changes = _changes(vector, shared)
        bias, head = _bias(ctx, p, attack, changes[MSAV], tokens)
        matched.append({"attack": attack, "quantity": "bias", "unit": "nats"} | head)
        found = _first_tokens(ctx, p, attack, changes, bias, tokens)
        found = found.merge(_answers(ctx, p, attack, changes, vector, RefusalBias(bias, tokens=tokens)), on=["arm", "request"], how="left")
        tables += _values(found, attack, ctx.seed("bootstrap"))
        contrasts += _contrasts(found, attack, ctx.seed("bootstrap"))
        contrasts += _spreads(ctx, p, attack, changes, tokens)
    return {"table": pd.DataFrame(tables), "contrasts": pd.DataFrame(contrasts), "bias": pd.DataFrame(matched)}


def _vectors(ctx: Context, p: Params, attack: str) -> tuple[AlignmentVector, AlignmentVector]:
    """MSAV of harmful training pairs, and the shift of their harmless twins."""
    from safesteer_interp.vectors.alignment import alignment_vectors

    trace = ctx.trace(needs(p)[0])
    both = [alignment_vectors(trace, sites=(SITE,), image=attack, harmful=side, replicates=2)[SITE] for side in (True, False)]
    return both[0], both[1]


def _changes(vector: AlignmentVector, shared: AlignmentVector) -> dict[str, Change]:
    """What each arm but the bias and random vectors does to a state."""
    from safesteer_interp.steering.edits import align
    from safesteer_interp.vectors.alignment import PROJECTION_RULE

    return {
        MSAV: align(vector),
        PROJECTION: align(vector, PROJECTION_RULE),
        SHIFT: _taken_off(shared.mu, shared, SHIFT),
        REMAINDER: _taken_off(vector.mu - shared.mu, vector, REMAINDER),
    }


def _taken_off(part: Any, like: AlignmentVector, name: str) -> Change:
    """h - part."""
    from safesteer_interp.steering.edits import add
    from safesteer_interp.vectors.direction import Direction

    direction = Direction.from_difference(part.double().numpy(), name, origin=like.origin, residual_norm=like.residual_norm)
    return add(direction, -direction.raw_norm / direction.residual_norm)


def _random(change: Change, d: int, seed: int) -> Change:
    """A step as long as that of `change`, state by state, in a direction drawn uniformly."""
    import torch

    from safesteer_interp.steering.edits import Change as Made

    drawn = torch.randn(d, generator=torch.Generator().manual_seed(seed))
    unit = drawn / drawn.norm()
    return Made(lambda h: h + (change(h) - h).norm(dim=-1, keepdim=True) * unit.to(h), f"random {seed}", f"{change.key} random {seed}", d)


def _bias(ctx: Context, p: Params, attack: str, msav: Change, tokens: Tokens) -> tuple[float, dict[str, Any]]:
    """Nats on the refusal tokens under which harmful validation pictures have the mean refusal mass that they have under MSAV; with what
    they have without (`plain`) and under it (`matched`)."""
    import torch
    from scipy.optimize import brentq
    from scipy.special import expit

    view = ctx.trace(validation_spec(p, (Attack(attack),)))
    states = view.rows(SITE, "last_prompt")[view.labels.harmful]
    plain = first_token(ctx, states, tokens)["log_odds"]
    target = float(first_token(ctx, msav(torch.from_numpy(states)).numpy(), tokens)["mass"].mean())
    # Log-odds rise by the bias itself, whatever the request: the mean mass is a smooth rising function of it.
    bias = float(brentq(lambda b: expit(plain + b).mean() - min(max(target, 1e-6), 1 - 1e-6), -60, 60))
    numbers = {"value": bias, "low": float("nan"), "high": float("nan"), "n": len(states), "clusters": len(states)}
    return bias, {**numbers, "plain": float(expit(plain).mean()), "matched": target}


def _first_tokens(ctx: Context, p: Params, attack: str, changes: dict[str, Change], bias: float, tokens: Tokens) -> pd.DataFrame:
    """One row per arm and request: labels and the first token's quantities; under random vectors their mean over the vectors."""
    import torch

    view = ctx.trace(_report(p))
    rows = np.flatnonzero(view.labels.attacks == attack)
    states = torch.from_numpy(view.rows(SITE, "last_prompt")[rows])
    labels = view.index.iloc[rows][["pair", "harmful"]].reset_index(drop=True).assign(request=[view.requests[i].id for i in rows])
    each = {NONE: first_token(ctx, states, tokens), BIAS: first_token(ctx, states, tokens, bias)}
    each |= {arm: first_token(ctx, change(states), tokens) for arm, change in changes.items()}
    drawn = [first_token(ctx, _random(changes[MSAV], states.shape[1], seed)(states), tokens) for seed in _seeds(ctx, p)]
    each[RANDOM] = {q: np.mean([one[q] for one in drawn], axis=0) for q in each[NONE]}
    return pd.concat([labels.assign(arm=arm, **{q: found[q] for q in FIRST}) for arm, found in each.items()], ignore_index=True)


def _seeds(ctx: Context, p: Params) -> range:
    first = ctx.seed("random vectors")
    return range(first, first + p.random_vectors)


def _answers(ctx: Context, p: Params, attack: str, changes: dict[str, Change], vector: AlignmentVector, bias: Any) -> pd.DataFrame:
    """One row per arm and request: the shares of its answers that are no refusal, and that go in circles. Every pair has its own random
    vector, so that means over pairs are means over vectors as well."""
    from safesteer_interp.defenses.none import Undefended

    requests = [r for r in ctx.requests(_report(p)) if r.attack == attack]
    defenses = {NONE: Undefended(), BIAS: bias, **{arm: _steered(change, vector) for arm, change in changes.items()}}
    asked = [to_answer(p, arm, defense, requests) for arm, defense in defenses.items()]
    first = ctx.seed("random vectors of the answers")
    for number, pair in enumerate(dict.fromkeys(r.pair for r in requests)):
        own = _steered(_random(changes[MSAV], vector.d, first + number), vector)
        asked.append(to_answer(p, RANDOM, own, [r for r in requests if r.pair == pair]))
    found = answered_together(ctx, p, asked)
    marks = found.assign(not_refused=found["outcome"] == "comply", degenerate=found["outcome"] == "degenerate")
    return marks.groupby(["defense", "request"], as_index=False)[list(ANSWER)].mean().rename(columns={"defense": "arm"})


def _steered(change: Change, vector: AlignmentVector) -> Any:
    """Answers with the last prompt state changed at the final norm."""
    from safesteer_interp.defenses.steered import Steered
    from safesteer_interp.steering.schedule import Schedule, at_sites

    return Steered((Schedule(at_sites(SITE), last_prompt_only=True).edit(change),), (vector,))


def _values(found: pd.DataFrame, attack: str, seed: int) -> list[dict[str, Any]]:
    """Means by arm, class and quantity."""
    rows = []
    for (arm, harmful), part in found.groupby(["arm", "harmful"], sort=False):
        for quantity in (*FIRST, *ANSWER):
            bounds = None if quantity == "log_odds" else OUTCOME
            estimate = cluster_mean(part[quantity].to_numpy(float), part["pair"].to_numpy(str), bounds=bounds, seed=seed)
            head = {"arm": arm, "attack": attack, "class": CLASSES[not harmful], "quantity": quantity}
            rows.append(head | estimate.as_row())
    return rows


def _contrasts(found: pd.DataFrame, attack: str, seed: int) -> list[dict[str, Any]]:
    """Means of one arm minus another (`to`) on the same requests, by class, and of harmful requests minus their twins."""
    labels = found[found["arm"] == NONE].set_index("request")[["pair", "harmful"]]
    rows = []
    for quantity in (*FIRST, *ANSWER):
        wide = found.pivot(index="request", columns="arm", values=quantity).loc[labels.index].astype(float)
        for arm, to in (*((arm, NONE) for arm in ARMS), *COMPARED):
            change = (wide[arm] - wide[to]).to_numpy()
            for kind, (values, pairs) in by_class(change, labels["harmful"].to_numpy(bool), labels["pair"].to_numpy(str)).items():
                widest = 2 if kind == TWINS else 1
                bounds = None if quantity == "log_odds" else (widest * DIFFERENCE[0], widest * DIFFERENCE[1])
                head = {"arm": arm, "to": to, "attack": attack, "class": kind, "quantity": quantity}
                rows.append(head | cluster_mean(values, pairs, bounds=bounds, seed=seed).as_row())
    return rows


def _spreads(ctx: Context, p: Params, attack: str, changes: dict[str, Change], tokens: Tokens) -> list[dict[str, Any]]:
    """How the first token changes in the mean over requests under single random vectors, as long as MSAV and as the harmless shift."""
    import torch

    view = ctx.trace(_report(p))
    at = view.labels.attacks == attack
    states = torch.from_numpy(view.rows(SITE, "last_prompt")[at])
    harmful, pairs = view.labels.harmful[at], view.labels.pairs[at]
    plain, rows = first_token(ctx, states, tokens), []
    for arm in (MSAV, SHIFT):
        drawn = [first_token(ctx, _random(changes[arm], states.shape[1], seed)(states), tokens) for seed in _seeds(ctx, p)]
        for quantity in FIRST:
            means = [{k: v.mean() for k, (v, _) in by_class(one[quantity] - plain[quantity], harmful, pairs).items()} for one in drawn]
            for kind in (*CLASSES, TWINS):
                head = {"arm": SPREAD, "to": arm, "attack": attack, "class": kind, "quantity": quantity}
                rows.append(head | Estimate.of_draws([mean[kind] for mean in means]).as_row())
    return rows


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    found = []
    for attack in p.attacks:
        found += _claims_of(t, attack, "" if len(p.attacks) == 1 else f"_{attack.lower()}")
    return found


def _claims_of(t: dict[str, pd.DataFrame], attack: str, suffix: str) -> list[Claim]:
    def of(arm: str, to: str, kind: str, quantity: str) -> Estimate:
        return estimate_of(row(t["contrasts"], arm=arm, to=to, attack=attack, quantity=quantity, **{"class": kind}))

    mass, share = "probability of a refusal token, paired difference", "share of answers, paired difference"
    harmful, harmless = CLASSES
    nothing = f"the same {attack} requests unedited"
    bias = row(t["bias"], attack=attack)
    size = f"The bias is {bias['value']:.1f} nats, matched on {int(bias['n'])} harmful validation requests."

    def claim(name: str, statement: str, estimate: Estimate, direction: Any, unit: str, **rest: Any) -> Claim:
        return Claim(id=name + suffix, statement=statement, estimate=estimate, direction=direction, threshold=0.0, unit=unit, **rest)

    return [
        claim(
            "lowers_not_refused",
            f"Moved towards text by MSAV, harmful {attack} requests are answered with something other than a refusal less often.",
            of(MSAV, NONE, harmful, "not_refused"), "below", share, difference_to=nothing,
            controls=(Control("random vectors of equal length", of(MSAV, RANDOM, harmful, "not_refused"), kind="paired"),),
        ),
        claim(
            "acts_on_harm",
            f"MSAV makes harmful {attack} requests answered less often by more than it does their harmless twins.",
            of(MSAV, NONE, TWINS, "not_refused"), "below", "share of answers, harmful minus harmless", difference_to="the harmless twins",
            controls=(Control("bias on refusal words", of(MSAV, BIAS, TWINS, "not_refused"), kind="context"),),
        ),
        claim(
            "harmless_shift_suffices",
            f"What harmless {attack} pairs share of the shift does more for the refusal of harmful ones than the remainder does.",
            of(SHIFT, REMAINDER, harmful, "mass"), "above", mass, difference_to="the remainder of the shift",
            controls=(Control("both parts: MSAV", of(MSAV, NONE, harmful, "mass"), kind="context"),),
            note="The remainder is what harmful pairs shift by beyond harmless ones: texts are refused, images are not.",
        ),
        claim(
            "harmless_shift_acts",
            f"Taking off what harmless {attack} pairs share of the shift makes harmful ones start with a refusal token more often.",
            of(SHIFT, NONE, harmful, "mass"), "above", mass, difference_to=nothing,
            controls=(
                Control("random vectors of equal length", estimate_of(row(
                    t["contrasts"], arm=SPREAD, to=SHIFT, attack=attack, quantity="mass", **{"class": harmful}))),
            ),
        ),
        claim(
            "refuses_more_than_a_bias",
            f"Harmful {attack} requests are refused more often under MSAV than under a bias on refusal words of equal first-token effect.",
            of(MSAV, BIAS, harmful, "not_refused"), "below", share, difference_to="a bias on refusal words", note=size,
        ),
        claim(
            "spares_more_than_a_bias",
            f"Harmless {attack} requests are answered more often under MSAV than under a bias on refusal words that does as much to "
            "harmful ones.",
            of(MSAV, BIAS, harmless, "not_refused"), "above", share, difference_to="a bias on refusal words", note=size,
        ),
        claim(
            "projection_lowers_not_refused",
            f"Moved towards text only as far as they lie along MSAV, harmful {attack} requests are answered less often.",
            of(PROJECTION, NONE, harmful, "not_refused"), "below", share, difference_to=nothing,
            controls=(Control("random vectors as long as MSAV's step", of(PROJECTION, RANDOM, harmful, "not_refused"), kind="paired"),),
        ),
        claim(
            "projection_spares_more",
            f"Harmless {attack} requests are answered more often under the projection than under the paper's distance.",
            of(PROJECTION, MSAV, harmless, "not_refused"), "above", share, difference_to="MSAV by the paper's distance",
        ),
    ]  # fmt: skip


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels

    shown = {
        "mass": "refusal token first (probability)",
        f"top_{TOP}": f"refusal token in the top {TOP} (share)",
        "not_refused": "answers not refused (share)",
    }
    fig, axes = new_figure(rows=len(p.attacks), cols=len(shown), width="full", height=0.6 + 2.3 * len(p.attacks), squeeze=False)
    order = {arm: place for place, arm in enumerate((NONE, *ARMS))}
    for line, attack in zip(axes, p.attacks, strict=True):
        part = t["table"][t["table"]["attack"] == attack]
        part = part.assign(label=part["arm"].map(NAMES), place=part["arm"].map(order)).sort_values("place", kind="stable")
        for ax, (quantity, words) in zip(line, shown.items(), strict=True):
            panels.forest(ax, part[part["quantity"] == quantity], by="class", kind="class", xlabel=words)
            ax.set_xlim(-0.04, 1.04)
            if ax is not line[0]:
                ax.tick_params(labelleft=False)
        line[0].set_title(f"{attack}, first token edited")
    return {"figure": fig}


ANALYSIS = Analysis(
    id="alignment_controls",
    title="What MSAV is",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2406.11717"),
    requires_images=True,
    attacks=(Attack.CB, Attack.SD),
    data=DataNeeds(both_classes=True, pairs=4, together=(Attack.CB, Attack.SD)),
    profiles={
        "full": {"pairs": None, "answer_pairs": 48, "seeds": 2, "tuning_pairs": None, "attacks": ("SD", "TYPO"), "random_vectors": 48}
    },
    order=9,
    captions={
        "figure": "Test pictures, with the last prompt state or the first logits edited. The bias has MSAV's effect on harmful validation "
        "pictures. Bars: 95 % over pairs; every pair has its own random vector in the answers."
    },
)
