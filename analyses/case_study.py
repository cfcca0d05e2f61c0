"""What does guidance do token by token: which candidates are there, how does the probe score them, and what is said instead?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._answering import PAPER_ATTACKS, GuidedParams, answered, fitted, test_spec, training_spec
from ._shared import row

KINDS = (("harmful", "refuse"), ("harmful", "comply"), ("harmless", "comply"), ("harmless", "refuse"))
PREFERENCE, REPLACED = "refusal openings over other candidates", "tokens replaced"


@dataclass(frozen=True)
class Params(GuidedParams):
    answer_pairs: int | None = 24
    """Test pairs whose requests are answered; the examples are chosen among these."""
    seeds: int = 1
    """Samples per request: tokens are counted here, not answers."""
    new_tokens: int = 24
    """Longest answer, in tokens: enough to see whether it refuses. Only guided tokens are ever written down."""
    examples: int = 2
    """Examples shown of each kind: harmful or harmless, refused or answered."""


def needs(p: Params) -> list[TraceSpec]:
    return [training_spec(p), test_spec(p)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """Guided tokens of a few examples, their candidates, and two contrasts over all examples; never more of an answer than that."""
    from dataclasses import replace

    base = fitted(ctx, p, k=p.k, steps=p.steps)
    requests = ctx.requests(test_spec(p))
    responses = answered(ctx, p, {"safesteer": base}, requests, explain=True)
    by_attack = [[r for r in requests if r.attack == attack] for attack in PAPER_ATTACKS]
    # One random direction may happen to favour refusals: each attack gets its own.
    chance = [
        answered(ctx, p, {"random": replace(base, scorer="random", scorer_seed=number)}, asked, explain=True)
        for number, asked in enumerate(by_attack)
    ]
    responses = pd.concat([responses, *chance], ignore_index=True)
    shown = _examples(responses[responses["defense"] == "safesteer"], p)
    decode = ctx.model.tokenizer.decode
    candidates = pd.DataFrame([line for number, (_, answer) in enumerate(shown.iterrows()) for line in _lines(number, answer, decode)])
    chosen, plain = candidates[candidates["chosen"]], candidates.groupby(["example", "step"])["plain_token"].first()
    labels = ["example", "request", "class", "attack", "outcome", "step", "token", "probability", "score"]
    strips = chosen[labels].assign(plain=plain.reindex(pd.MultiIndex.from_frame(chosen[["example", "step"]])).to_numpy())
    strips["replaced"] = strips["token"] != strips["plain"]
    return {
        "table": strips.reset_index(drop=True),
        "candidates": candidates.drop(columns=["plain_token"]),
        "contrasts": _contrasts(ctx, responses),
    }


def _examples(answers: pd.DataFrame, p: Params) -> pd.DataFrame:
    """Of each kind the answers in which guidance replaced most tokens, one a pair and if possible of different attacks."""
    replaced = answers["steps"].map(lambda steps: sum(s["candidates"][s["choice"]] != s["plain"] for s in steps))
    ranked = answers.assign(replaced=replaced).sort_values(["replaced", "request"], ascending=[False, True], kind="stable")
    picked: list[Any] = []
    for kind, outcome in KINDS:
        left = ranked[(ranked["harmful"] == (kind == "harmful")) & (ranked["outcome"] == outcome)]
        for _ in range(min(p.examples, left["pair"].nunique())):
            seen = [answer["attack"] for answer in picked[-p.examples :] if answer["outcome"] == outcome]
            fresh = left[~left["attack"].isin(seen)]
            best = (fresh if len(fresh) else left).iloc[0]
            picked.append(best)
            left = left[left["pair"] != best["pair"]]
    return pd.DataFrame(picked)


def _lines(number: int, answer: Any, decode: Any) -> list[dict[str, Any]]:
    """One line per guided step and candidate of one answer."""
    labels = {"example": number, "request": answer["request"], "class": "harmful" if answer["harmful"] else "harmless"}
    labels |= {"attack": answer["attack"], "outcome": answer["outcome"]}
    return [
        {**labels, "step": step["step"], "rank": rank, "token": _word(decode, token), "probability": step["probabilities"][rank],
         "score": step["scores"][rank], "chosen": rank == step["choice"], "plain": token == step["plain"],
         "plain_token": _word(decode, step["plain"])}
        for step in answer["steps"]
        for rank, token in enumerate(step["candidates"])
    ]  # fmt: skip


def _word(decode: Any, token: int) -> str:
    """A token as a table can hold it: blanks and line breaks written out."""
    text = str(decode([token]))
    for hidden, mark in ((" ", "·"), ("\n", "⏎"), ("\r", "⏎"), ("\t", "→")):
        text = text.replace(hidden, mark)
    return text or "∅"


def _contrasts(ctx: Context, responses: pd.DataFrame) -> pd.DataFrame:
    """By scorer and class, over the guided tokens of all answers.

    `refusal openings over other candidates`: mean score of candidates that stay on a published refusal opening minus that of the others
    of the same step, where there are both. `tokens replaced`: share of guided tokens that ordinary sampling would not have drawn.
    """
    from safesteer_interp.models.openings import refusal_openings
    from safesteer_interp.statistics import cluster_mean

    openings = refusal_openings(ctx.model)
    found: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    shares: dict[str, list[tuple[float, str]]] = {}
    for _, answer in responses.iterrows():
        kind, scorer, pair = "harmful" if answer["harmful"] else "harmless", answer["defense"], answer["pair"]
        steps = _measured(answer["steps"], openings)
        for preference, replaced in steps:
            if preference is not None:
                found.setdefault((PREFERENCE, scorer, kind), []).append((preference, pair))
            found.setdefault((REPLACED, scorer, kind), []).append((replaced, pair))
        if steps:
            share = float(np.mean([replaced for _, replaced in steps]))
            shares.setdefault(scorer, []).append((share if answer["harmful"] else -share, pair))
    for scorer, values in shares.items():  # every pair has as many harmful answers as harmless ones: twice the mean is the difference
        found[REPLACED, scorer, "harmful minus harmless"] = [(2 * value, pair) for value, pair in values]
    seed, rows = ctx.seed("contrasts"), []
    for (quantity, scorer, kind), values in found.items():
        numbers, pairs = (np.array(column) for column in zip(*values, strict=True))
        rows.append({"quantity": quantity, "scorer": scorer, "class": kind} | cluster_mean(numbers, pairs, seed=seed).as_row())
    return pd.DataFrame(rows)


def _measured(steps: Any, openings: Any) -> list[tuple[float | None, float]]:
    """By guided step of one answer: mean score of the candidates that stay on a refusal opening minus that of the others (None where
    candidates are of one kind), and 1 where the token taken is not the one that ordinary sampling would have drawn."""
    said: list[int] = []
    found = []
    for step in steps:
        on = np.array([any(o[: len(said) + 1] == (*said, token) for o in openings) for token in step["candidates"]])
        scored, taken = np.array(step["scores"]), step["candidates"][step["choice"]]
        preference = float(scored[on].mean() - scored[~on].mean()) if on.any() and not on.all() else None
        found.append((preference, float(taken != step["plain"])))
        said.append(taken)
    return found


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    contrasts, found = t["contrasts"], []

    def contrast(quantity: str, scorer: str, kind: str) -> Any:
        return estimate_of(row(contrasts, quantity=quantity, scorer=scorer, **{"class": kind}))

    there = contrasts[(contrasts["quantity"] == PREFERENCE) & (contrasts["class"] == "harmful")]["scorer"]
    if set(there) >= {"safesteer", "random"}:
        found.append(
            Claim(
                id="prefers_refusals",
                statement="Among a step's candidates, the probe scores those that begin a refusal of a harmful request above the others.",
                estimate=contrast(PREFERENCE, "safesteer", "harmful"),
                direction="above",
                threshold=0.0,
                unit="log-odds of the probe",
                controls=(Control("random probe", contrast(PREFERENCE, "random", "harmful")),),
                note="The sign test where it counts: between tokens that could have been said at the same place.",
            )
        )
    found.append(
        Claim(
            id="intervenes_where_harmful",
            statement="Guidance replaces more tokens in answers to harmful requests than in answers to harmless ones.",
            estimate=contrast(REPLACED, "safesteer", "harmful minus harmless"),
            direction="above",
            threshold=0.0,
            unit="difference in share of guided tokens",
            controls=(Control("random probe", contrast(REPLACED, "random", "harmful minus harmless")),),
        )
    )
    return found


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    return {"figure": _strips(t["table"]), "candidates": _grids(t["candidates"])}


def _title(example: pd.DataFrame) -> str:
    first = example.iloc[0]
    return f"{first['class']} {first['attack']}: {'refused' if first['outcome'] == 'refuse' else 'answered'}"


def _limit(scores: pd.Series) -> float:
    return max(1.0, float(scores.abs().max()))


def _strips(t: pd.DataFrame) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm

    from safesteer_interp.plotting import new_figure, palette, panels

    examples = [part for _, part in t.groupby("example")]
    rows, limit = -(-len(examples) // 2), _limit(t["score"])
    fig, axes = new_figure(rows=rows, cols=2, width="full", height=0.62 * rows + 0.9, squeeze=False)
    for ax, part in zip(axes.flat, examples, strict=False):
        struck = part.assign(struck=part["plain"].where(part["replaced"], ""))
        panels.token_strip(ax, struck, value="score", struck="struck", center=0.0, vmin=-limit, vmax=limit, per_line=46, colorbar=False)
        ax.set_title(_title(part), fontsize=8)
    for ax in axes.flat[len(examples) :]:
        ax.set_axis_off()
    colors = ScalarMappable(TwoSlopeNorm(0.0, -limit, limit), palette.HARM)
    fig.colorbar(
        colors, ax=axes, orientation="horizontal", label="probe score of the token said (log-odds of harmful)", fraction=0.05, aspect=60
    )
    return fig


def _grids(t: pd.DataFrame) -> Any:
    from safesteer_interp.plotting import new_figure, panels

    first = t.groupby(["class", "outcome"], sort=False)["example"].first()
    limit = _limit(t["score"])
    rows = -(-len(first) // 2)
    fig, axes = new_figure(rows=rows, cols=2, width="full", height=2.5 * rows, squeeze=False)
    for ax, number in zip(axes.flat, first, strict=False):
        part = t[t["example"] == number]
        panels.candidate_grid(ax, part, limit=limit)
        ax.set_title(_title(part), fontsize=8)
    for ax in axes.flat[len(first) :]:
        ax.set_axis_off()
    return fig


ANALYSIS = Analysis(
    id="case_study",
    title="Guidance, token by token",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    replicates="SafeSteer Fig. 5",
    cites=("arXiv:2605.11716",),
    requires_images=True,
    attacks=PAPER_ATTACKS,
    data=COMPARED,
    profiles={"full": {"pairs": None, "answer_pairs": None, "seeds": 3}},
    order=13,
    captions={
        "figure": "The guided opening tokens on the colour of their probe score; above, struck through, what ordinary sampling would have "
        "said. Examples in which most tokens were replaced; answers are cut after the guided tokens.",
        "candidates": "Candidates of each guided token from likely (top) to unlikely, with the model's probability and the probe's score. "
        "Colours follow the score. Framed: taken. Struck through: what ordinary sampling would have drawn.",
    },
)
