"""What the analyses of defenses share: one SafeSteer fitted on the training pairs, one set of test requests, and stored answers.

All of them answer the same requests with the same seeds and settings, so that an answer of one analysis is the next one's for free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from safesteer_interp.errors import NotApplicableError
from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.context import Context
from safesteer_interp.tracing.spec import TraceSpec

from ._shared import Paired, answers, fit_spec, report_spec

PAPER_ATTACKS = (Attack.CB, Attack.SD, Attack.TYPO)
"""The columns of SafeSteer's Table 3; the rate over all of them is its "All"."""


AS_PUBLISHED: dict[str, Any] = {"seeds": 3, "new_tokens": 128}
"""What the full profile samples: answers of at most 128 tokens (arXiv 2605.11716 section 5.1)."""
MARGIN, COARSE_MARGIN = 1e-3, 1.0
"""Scores of the probe (log-odds) this near its boundary may fall on either side of it when answers are made: in other batches, and in a
number format of fewer digits than the float32 that prompts are traced in."""


@dataclass(frozen=True)
class AnsweringParams:
    """What every analysis of answers lets a user choose; the quick profile's sizes."""

    pairs: int | None = 32
    """Pairs per split that probe, vector and direction are fitted on and that prompt states are measured on."""
    answer_pairs: int | None = 24
    """Test pairs whose requests are answered under every condition."""
    seeds: int = 2
    """Samples per request and condition, at temperature 1."""
    new_tokens: int = 32
    """Longest answer, in tokens: a refusal is decided in the first dozen. The full profile's is the paper's (`AS_PUBLISHED`)."""
    batch: int = 96
    """Answers per batch."""
    seed: int = 0
    """Seed of the bootstrap and of everything random."""


@dataclass(frozen=True)
class GuidedParams(AnsweringParams):
    """The same for answers that SafeSteer's probe guides: many conditions, so one sample each."""

    seeds: int = 1
    """Samples per request and condition, at temperature 1."""
    k: int = 5
    """Candidates a guided step."""
    steps: int = 5
    """Answer tokens that are guided."""


@runtime_checkable
class AnswersPairs(Paired, Protocol):
    """Parameters of an analysis that has requests of some test pairs answered."""

    @property
    def answer_pairs(self) -> int | None:
        """Test pairs; None: all."""


@runtime_checkable
class Batched(Protocol):
    """Parameters of an analysis that passes answers through the model."""

    @property
    def batch(self) -> int:
        """Answers per batch."""


def training_spec(p: Paired) -> TraceSpec:
    """Prompt and first-token states of the training pairs in every image form, with the undefended answers: what SafeSteer is fitted on."""
    return fit_spec(p, **answers())


def test_spec(p: AnswersPairs, attacks: Sequence[Attack] = PAPER_ATTACKS) -> TraceSpec:  # noqa: PT028  (no pytest function)
    """The test requests that are answered (`answer_pairs` pairs); prompt states at the final norm only."""
    return report_spec(p, attacks=tuple(attacks), pairs=p.answer_pairs, sites=("final_norm",))


def fitted(ctx: Context, p: Paired, preset: str = "corrected", **options: Any) -> Any:
    """A `SafeSteer` by preset, fitted on the training pairs. It may guide even where the sign test fails: measuring that is the point."""
    from safesteer_interp.defenses.presets import named_settings
    from safesteer_interp.defenses.safesteer import SafeSteer

    settings = {**named_settings(preset), "force": True, **options}
    if settings.get("scaled", True):
        settings["candidates"] = training_candidates(ctx, p)
    return SafeSteer.from_trace(ctx.model, ctx.trace(training_spec(p)), **settings)


def training_candidates(ctx: Context, p: Paired) -> Any:
    """Candidates of some training requests, which set the unit of every probe's score."""
    from safesteer_interp.defenses import fitted_parts

    requests = fitted_parts.training_requests(ctx.trace(training_spec(p)))
    return fitted_parts.training_candidates(ctx.answerer, requests, {"k": 5, "steps": 5})


def calibrated(ctx: Context, p: Paired, **options: Any) -> Any:
    """The defense as `safesteer calibrate` chose it for this model (its preset says "calibrated"); where it did not, "untuned"."""
    from dataclasses import replace

    from safesteer_interp.defenses.presets import find_calibration
    from safesteer_interp.defenses.safesteer import SafeSteer

    if find_calibration(ctx.model) is None:
        return fitted(ctx, p, "untuned", **options)
    found = replace(SafeSteer.calibrated(ctx.model), force=True, **options)
    return found if found.probe.spread_ is not None else replace(found, scaled=False)  # no probe passed: MSAV alone was chosen


def presets(ctx: Context, p: Paired) -> dict[str, Any]:
    """SafeSteer by the names that tables and figures give it: as printed, corrected, and calibrated where this model is."""
    best = calibrated(ctx, p)
    return {"paper": fitted(ctx, p, "paper"), "corrected": fitted(ctx, p), best.preset: best}


def through(ctx: Context, spec: TraceSpec, defense: Any, requests: Sequence[Request]) -> list[Request]:
    """The requests that a gated defense does anything to: all others it answers as the undefended model, token for token."""
    from safesteer_interp.images import shows_something

    if defense.gate == "none" and defense.steps:
        return list(requests)
    states = ctx.trace(spec).rows("final_norm", "last_prompt")
    scores = dict(zip([r.id for r in ctx.requests(spec)], defense.prompt_probe.decision_function(states), strict=True))
    bars = {True: defense.threshold_picture, False: defense.threshold}
    return [r for r in requests if scores[r.id] > bars[shows_something(r.image)] - margin(ctx)]


def filled_up(found: pd.DataFrame, asked: Mapping[str, tuple[Sequence[Request], Sequence[Request]]]) -> pd.DataFrame:
    """The answers, with those of "none" in the place of answers that a shut gate makes equal to them.

    `asked`: condition -> (the requests it is about, those it was asked because its gate lets them through).
    """
    plain = found[found["defense"] == "none"]
    same = []
    for name, (every, let_through) in asked.items():
        left = {r.id for r in every} - {r.id for r in let_through}
        same.append(plain[plain["request"].isin(left)].assign(defense=name))
    return pd.concat([found, *same], ignore_index=True)


def answered(
    ctx: Context,
    p: AnsweringParams,
    defenses: Mapping[str, Any],
    requests: Sequence[Request],
    *,
    explain: bool = False,
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """`answered_together` where all defenses answer the same requests, under `seeds` (0 to `p.seeds` - 1 unless given)."""
    from safesteer_interp.evaluation.harness import Condition

    drawn = tuple(seeds) or tuple(range(p.seeds))
    return answered_together(ctx, p, [Condition(name, defense, requests, drawn) for name, defense in defenses.items()], explain=explain)


def answered_together(ctx: Context, p: AnsweringParams, conditions: Sequence[Any], *, explain: bool = False) -> pd.DataFrame:
    """One row per condition (`evaluation.harness.Condition`), request and seed with the three-way outcome.

    Conditions may answer different requests and share batches where they can; answers are stored and reused.
    """
    from safesteer_interp.defenses.defense import Settings
    from safesteer_interp.evaluation.harness import judged, respond
    from safesteer_interp.tracing.tracer import Sampling

    settings = Settings(Sampling(max_new_tokens=p.new_tokens, temperature=1.0), batch_size=p.batch, explain=explain)
    session = ctx.session.settings
    answers = respond(ctx.answerer, conditions, settings=settings, root=session.responses, progress=session.progress)
    return judged(answers)  # by the suite's own rules of declining: lists of prefixes miss models that refuse in many words


def perplexities(ctx: Context, p: Batched, requests: Sequence[Request], answers: pd.DataFrame) -> list[float]:
    """Perplexity under the undefended model of every answer in a table of them; stored and reused."""
    from safesteer_interp.evaluation.harness import perplexities_stored

    known = {r.id: r for r in requests}
    asked, root = [known[i] for i in answers["request"]], ctx.session.settings.responses
    return perplexities_stored(ctx.answerer, asked, list(answers["ids"]), batch_size=p.batch, root=root)


def margin(ctx: Context) -> float:
    """How near the probe's boundary a traced score leaves open what the defense will say of the request."""
    return MARGIN if ctx.session.answer_dtype == "float32" else COARSE_MARGIN


def to_answer(p: AnsweringParams, name: str, defense: Any, requests: Sequence[Request], seeds: int | None = None) -> Any:
    """A defense with what it answers, under `seeds` seeds (`p.seeds` unless given)."""
    from safesteer_interp.evaluation.harness import Condition

    return Condition(name, defense, requests, tuple(range(p.seeds if seeds is None else seeds)))


def by_chance(p: AnsweringParams, name: str, make: Callable[[int], Any], requests: Sequence[Request]) -> list[Any]:
    """A control with a random part, made anew for every seed: one draw may happen to favour or to prevent refusals."""
    from safesteer_interp.evaluation.harness import Condition

    return [Condition(name, make(seed), requests, (seed,)) for seed in range(p.seeds)]


def without_answers(t: pd.DataFrame) -> pd.DataFrame:
    """Of the harness's columns those a table may keep: labels and outcomes, never the text of an answer to a harmful request."""
    keep = ("request", "pair", "scenario", "attack", "harmful", "defense", "seed", "n_tokens", "repetition", "perplexity", "outcome")
    return t[[c for c in keep if c in t]]


def demand_both_kinds(t: pd.DataFrame, column: str = "outcome", baseline: str = "none") -> None:
    """Raises NotApplicableError when the undefended model never complies with a harmful request: there is nothing to defend."""
    vanilla = t[(t["defense"] == baseline) & t["harmful"]]
    if not (vanilla[column] == "comply").any():
        raise NotApplicableError("the undefended model complies with none of these harmful requests: there is no attack to defend against.")
