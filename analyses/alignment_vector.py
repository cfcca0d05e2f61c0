"""Is the alignment vector one direction, what is it made of, and which way of applying it brings refusals back to image attacks?"""

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
from safesteer_interp.statistics import Estimate
from safesteer_interp.tracing.spec import TraceSpec

from ._alignment_rules import CORRECTED, EVERY, GATED, IMAGE, PRINTED, PROJECTION, TWINS, rule_effects
from ._answering import fitted, training_spec
from ._refusal_tokens import refusal_tokens
from ._shared import attacks_in, report_spec, row, site_label

if TYPE_CHECKING:  # a finding is drawn without torch
    from safesteer_interp.tracing.view import TraceView

FORMS = (Attack.CB, Attack.SD, Attack.TYPO, Attack.SD_TYPO)


@dataclass(frozen=True)
class Params:
    pairs: int | None = 32
    """Pairs per split."""
    random_vectors: int = 39
    """Random vectors of MSAV's length; their bounds are the central 95 % of the vectors."""
    random_directions: int = 200
    """Random directions that the cosine with the refusal direction is held against."""
    matchings: int = 50
    """Random pairings of text requests that consistency and size are held against."""
    seed: int = 0
    """Seed of the bootstrap and of everything random."""


def needs(p: Params) -> list[TraceSpec]:
    return [training_spec(p), report_spec(p, attacks=FORMS)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """Geometry of the shift by layer, and what each application rule does to the first token, on test pairs.

    Vector, refusal direction and probe are fitted on the training pairs. At `final_norm` an edit of the last prompt state changes the
    first token's logits and nothing else, so the rules need no forward pass.
    """
    fit, report = (ctx.trace(spec) for spec in needs(p))
    rules, contrasts = rule_effects(ctx, fitted(ctx, p), report, refusal_tokens(ctx, p), p.random_vectors)
    return {"layers": _layers(ctx, fit, report, p), "rules": rules, "contrasts": contrasts}


def _layers(ctx: Context, fit: TraceView, report: TraceView, p: Params) -> pd.DataFrame:
    """By layer and class: `size` (median state norms), `consistency` (mean cosine between pairs), `cosine` with the refusal direction,
    `transfer` (cosine with the vector of the training pairs' harmful requests); beside random pairs and random directions."""
    from safesteer_interp.vectors.alignment import alignment_vectors
    from safesteer_interp.vectors.direction import median_norm
    from safesteer_interp.vectors.refusal import refusal_directions
    from safesteer_interp.vectors.resampling import DifferenceBootstrap, pairwise_cosine

    seed, rng = ctx.seed("bootstrap"), ctx.rng("chance")
    refusal = {str(d.site): d.vector.numpy() for d in refusal_directions(fit)}
    trained = {site: v.mu.numpy() for site, v in alignment_vectors(fit, replicates=1).items()}
    place = {(r.pair, r.attack, r.harmful): i for i, r in enumerate(report.requests)}
    rows: list[dict[str, Any]] = []

    def note(site: Any, of: str, quantity: str, numbers: dict[str, Any]) -> None:
        if np.isfinite(numbers["value"]):
            rows.append({"layer": site_label(site), "of": of, "quantity": quantity} | numbers)

    def chance(draws: Any) -> dict[str, Any]:
        return Estimate.of_draws(draws).as_row()

    for site in ctx.track(report.sites_in_order, "layers"):
        states = report.rows(site, "last_prompt").astype(np.float64)
        if not np.ptp(states, axis=0).any():  # `embed`: the last prompt token is the same in every request
            continue
        scale = median_norm(states)
        for of, side in (("harmful", True), ("harmless", False)):
            pairs = sorted(pair for pair, a, h in place if a is Attack.CB and h is side and (pair, Attack.SD, side) in place)
            picture, text = (states[[place[pair, a, side] for pair in pairs]] for a in (Attack.SD, Attack.CB))
            stacked, is_picture = np.concatenate([picture, text]), np.repeat([True, False], len(pairs))
            bootstrap = DifferenceBootstrap(stacked, is_picture, np.array(pairs * 2), seed=seed)
            note(site, of, "size", bootstrap.norm().scaled(1 / scale).as_row())
            note(site, of, "consistency", pairwise_cosine(picture - text, against=0.5, seed=seed).as_row())
            if str(site) in refusal:
                note(site, of, "cosine", bootstrap.cosine(refusal[str(site)]).as_row())
                note(site, of, "transfer", bootstrap.cosine(trained[str(site)], against=0.5).as_row())
            if side:
                halves = [np.array_split(rng.permutation(len(pairs))[: len(pairs) // 2 * 2], 2) for _ in range(p.matchings)]
                noise = [text[a] - text[b] for a, b in halves]
                note(site, "random_pairs", "size", chance([np.linalg.norm(d.mean(axis=0)) / scale for d in noise]))
                if all(np.linalg.norm(d, axis=1).all() for d in noise):
                    note(site, "random_pairs", "consistency", chance([pairwise_cosine(d, replicates=1).value for d in noise]))
                    mu = trained[str(site)]
                    note(site, "random_pairs", "transfer", chance([abs(_cosine(d.mean(axis=0), mu)) for d in noise]))
                    shift = (picture - text).mean(axis=0)
                    drawn = rng.standard_normal((p.random_directions, len(shift)))
                    cosines = drawn @ shift / np.linalg.norm(drawn, axis=1) / max(np.linalg.norm(shift), 1e-12)
                    note(site, "random_direction", "cosine", chance(cosines))
    return pd.DataFrame(rows)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    final = t["layers"][t["layers"]["layer"] == "final_norm"]

    def pairs_by_chance(quantity: str) -> Control:
        return Control("random_pairs", estimate_of(row(final, of="random_pairs", quantity=quantity)))

    found = [
        Claim(
            id="consistent_over_pairs",
            statement="What the shift from text to picture has in common over pairs outweighs what differs between them.",
            estimate=estimate_of(row(final, of="harmful", quantity="consistency")),
            direction="above",
            threshold=0.5,
            unit="mean cosine between pairs",
            controls=(pairs_by_chance("consistency"),),
            note="0.5 is where the common part is as long as a pair's own part.",
        ),
        Claim(
            id="same_for_harmless",
            statement="The shift of harmless requests points the same way, more or less, as the vector fitted on harmful ones.",
            estimate=estimate_of(row(final, of="harmless", quantity="transfer")),
            direction="above",
            threshold=0.5,
            unit="cosine",
            controls=(
                pairs_by_chance("transfer"),
                Control("harmful requests", estimate_of(row(final, of="harmful", quantity="transfer")), kind="context"),
            ),
            note="A cosine of 0.8 leaves a part of 0.6 across it: what that part does to refusal is asked by alignment_controls. "
            "Random pairs: the difference of two halves of the texts, without its sign.",
        ),
    ]

    def contrast(rule: str, attack: str, kind: str, quantity: str, gate: str = EVERY) -> Estimate:
        return estimate_of(row(t["contrasts"], rule=rule, attack=attack, quantity=quantity, gate=gate, **{"class": kind}))

    def state(rule: str) -> Estimate:
        return estimate_of(row(t["rules"], rule=rule, attack=IMAGE, quantity="mass", gate=EVERY, **{"class": TWINS}))

    def rise(name: str, words: str, rule: str, attack: str, **rest: Any) -> Claim:
        null = Control("random vectors of equal length", contrast(f"random/{_length(rule)}", attack, "harmful", "log_odds"))
        return Claim(
            id=name,
            statement=words,
            estimate=contrast(rule, attack, "harmful", "log_odds"),
            direction="above",
            threshold=0.0,
            unit="nats of log-odds, paired difference",
            difference_to="the same requests unedited",
            controls=(null,),
            **rest,
        )

    paper: dict[str, Any] = {"kind": "replication", "source": "arXiv:2605.11716 section 4"}
    for attack in [a for a in attacks_in(t["contrasts"]) if a in ("SD", "TYPO")]:
        words = f"Moved back towards text by a unit vector, harmful {attack} requests start with a refusal token more often."
        found.append(rise(f"toward_text_raises_refusal_{attack.lower()}", words, CORRECTED, attack))
    found.append(
        rise(
            "printed_raises_refusal_sd",
            "Applied as printed, MSAV makes harmful SD requests start with a refusal token more often.",
            PRINTED,
            "SD",
            note="The sign leads from text to image, and the step is |mu| times too long (arXiv 2605.11716 eq. 8-10).",
            printed="h0 + alpha mu aligns harmful image requests with harmful texts",
            **paper,
        )
    )
    entered = t["contrasts"][(t["contrasts"]["quantity"] == "enters_top_5") & (t["contrasts"]["attack"] == "SD")]
    if len(entered[(entered["rule"] == CORRECTED) & (entered["class"] == "harmful") & (entered["gate"] == EVERY)]):
        found.append(
            Claim(
                id="enters_top_5_sd",
                statement="Of harmful SD requests without a refusal token among the 5 likeliest starts, MSAV towards text gives most one.",
                estimate=contrast(CORRECTED, "SD", "harmful", "enters_top_5"),
                direction="above",
                threshold=0.5,
                unit="share of those requests",
                controls=(Control("random vectors of equal length", contrast("random/unit", "SD", "harmful", "enters_top_5")),),
                printed="MSAV makes safe tokens enter the top-K candidates of the first step",
                **paper,
            )
        )
    found.append(
        Claim(
            id="acts_on_harm",
            statement="Moved towards text by MSAV, harmful image requests start with a refusal token more often than their harmless twins, "
            "and by more than under random vectors.",
            estimate=state(CORRECTED),
            direction="above",
            threshold=0.0,
            unit="probability of a refusal token, harmful minus harmless",
            difference_to="the harmless twins",
            controls=(
                Control("random vectors of equal length", state("random/unit")),
                Control("unedited", state("none"), kind="context"),
            ),
            note="The state after the edit, not the change: where both classes reach 1, the change says who started lower.",
        )
    )
    for name, gate, who in (("spares_harmless", GATED, "that the probe calls harmful"), ("spares_harmless_ungated", EVERY, "in general")):
        note = "The gate is a probe: where it is shut, nothing is done." if gate == GATED else ""
        found.append(
            Claim(
                id=name,
                statement=f"Applied to requests {who}, MSAV towards text makes a refusal the likeliest start of fewer than half of "
                "harmless image requests, and of fewer of them than of harmful ones.",
                estimate=contrast(CORRECTED, IMAGE, "harmless", "becomes_top_1", gate),
                direction="below",
                threshold=0.5,
                unit="share of requests whose most probable start becomes a refusal",
                controls=(Control("harmful twins", contrast(CORRECTED, IMAGE, TWINS, "becomes_top_1", gate).scaled(-1), kind="paired"),),
                note=note,
            )
        )
    return found


def _length(rule: str) -> str:
    """Which random vectors take a step of the length that the rule takes."""
    return "raw" if rule.endswith("/raw") else "unit"


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels

    layers, axes = new_figure(rows=1, cols=3, width="full", height=2.9)
    shown = {"size": "‖μ‖ (median state norms)", "consistency": "mean cosine between pairs", "cosine": "cosine with refusal direction"}
    for ax, (quantity, label), title in zip(axes, shown.items(), ("how far", "how alike", "which way"), strict=True):
        part = t["layers"][t["layers"]["quantity"] == quantity]
        panels.layer_curve(ax, part, by="of", kind="class", ylabel=label, reference=None if quantity == "size" else 0.0, reference_label="")
        ax.set_title(f"SD minus CB: {title}")

    effects, axes = new_figure(rows=1, cols=3, width="full", height=3.7)
    every = t["rules"][t["rules"]["gate"] == EVERY]
    gated = t["rules"][(t["rules"]["gate"] == GATED) & (t["rules"]["rule"] == CORRECTED)]
    part = pd.concat([every.assign(label=every["rule"].map(WORDED)), gated.assign(label=WORDED[GATED])])
    part = part.assign(place=part["label"].map({word: i for i, word in enumerate(WORDED.values())})).dropna(subset=["place"])
    part = part.sort_values("place", kind="stable")
    by_attack, by_class = (
        part[(part["class"] == "harmful") & (part["attack"] != IMAGE)],
        part[(part["attack"] == IMAGE) & (part["class"] != TWINS)],
    )
    panels_of = (
        (by_attack, "attack", "top_5", "harmful: refusal in the top 5"),
        (by_attack, "attack", "top_1", "harmful: refusal likeliest"),
        (by_class, "class", "top_1", "any image: refusal likeliest"),
    )
    for ax, (table, by, quantity, title) in zip(axes, panels_of, strict=True):
        panels.forest(ax, table[table["quantity"] == quantity], by=by, xlabel="share of requests")
        ax.set_title(title)
        ax.set_xlim(-0.04, 1.04)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
    return {"figure": layers, "rules": effects}


WORDED = {
    "none": "no edit",
    PRINTED: "printed, raw",
    "printed/unit": "printed, unit",
    "toward_text/raw": "to text, raw",
    CORRECTED: "to text, unit",
    GATED: "the same, gated",
    PROJECTION: "to text, projection",
    "random/unit": "random, unit",
}
"""The rows of the figure: rules, and the corrected one behind the probe's gate, as SafeSteer applies it."""


ANALYSIS = Analysis(
    id="alignment_vector",
    title="The modal semantic alignment vector",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2406.11717", "arXiv:2507.13255"),
    requires_images=True,
    attacks=(Attack.CB, Attack.SD),
    data=DataNeeds(both_classes=True, pairs=4, together=(Attack.CB, Attack.SD)),
    profiles={"full": {"pairs": None, "random_vectors": 100}},
    order=9,
    captions={
        "figure": "mu = mean SD - mean CB of test pairs; the refusal direction is from training pairs. Bands: 95 % over pairs.",
        "rules": "First token of test requests with MSAV at the final norm, by rule. Bars: 95 % over pairs; random: 95 % of the vectors.",
    },
)
