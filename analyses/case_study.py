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

from ._answering import PAPER_ATTACKS, GuidedParams, answered_together, presets, test_spec, through, to_answer, training_spec
from ._shared import row

KINDS = (("harmful", "refuse"), ("harmful", "comply"), ("harmless", "comply"), ("harmless", "refuse"))
REPLACED = "tokens replaced"


@dataclass(frozen=True)
class Params(GuidedParams):
    new_tokens: int = 24
    """Longest answer, in tokens: enough to see whether it refuses. Only guided tokens are ever written down."""
    examples: int = 1
    """Examples shown of each setting and kind: harmful or harmless, refused or answered."""


def needs(p: Params) -> list[TraceSpec]:
    return [training_spec(p), test_spec(p)]


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """Guided tokens of a few examples, their candidates, and how often guidance replaces a token; never more of an answer than that.

    Settings: `paper`, `corrected`, and `calibrated` (`untuned` on a model without calibration).
    """
    from dataclasses import replace

    named, requests = presets(ctx, p), ctx.requests(test_spec(p))
    named = {name: defense if defense.steps else replace(defense, steps=p.steps) for name, defense in named.items()}
    asked = {name: through(ctx, test_spec(p), defense, requests) for name, defense in named.items()}
    wanted = [to_answer(p, name, named[name], some) for name, some in asked.items() if some]
    responses = answered_together(ctx, p, wanted, explain=True)
    shown = pd.concat([_examples(responses[responses["defense"] == name], p) for name in named], ignore_index=True)
    decode = ctx.model.tokenizer.decode
    candidates = pd.DataFrame([line for number, (_, answer) in enumerate(shown.iterrows()) for line in _lines(number, answer, decode)])
    chosen, plain = candidates[candidates["chosen"]], candidates.groupby(["example", "step"])["plain_token"].first()
    labels = ["example", "setting", "request", "class", "attack", "outcome", "step", "token", "probability", "score"]
    strips = chosen[labels].assign(plain=plain.reindex(pd.MultiIndex.from_frame(chosen[["example", "step"]])).to_numpy())
    strips["replaced"] = strips["token"] != strips["plain"]
    return {
        "table": strips.reset_index(drop=True),
        "candidates": candidates.drop(columns=["plain_token"]),
        "contrasts": _contrasts(ctx, responses, requests, list(named)),
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
    labels = {
        "example": number,
        "setting": answer["defense"],
        "request": answer["request"],
        "class": "harmful" if answer["harmful"] else "harmless",
    }
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


def _contrasts(ctx: Context, responses: pd.DataFrame, requests: list[Any], settings: list[str]) -> pd.DataFrame:
    """`tokens replaced` by setting and class: share of an answer's guided tokens that ordinary sampling would not have drawn, 0 where a
    shut gate leaves the request alone; and, paired, harmful minus harmless twin."""
    from safesteer_interp.statistics import cluster_mean

    seed, rows = ctx.seed("contrasts"), []
    for setting in settings:
        own = responses[responses["defense"] == setting].set_index("request")["steps"]
        shares = {request: _replaced(steps) for request, steps in own.items()}
        values = pd.DataFrame(
            [(r.pair, str(r.attack), r.harmful, shares.get(r.id, 0.0)) for r in requests], columns=["pair", "attack", "harmful", "share"]
        )
        for harmful, part in values.groupby("harmful"):
            found = cluster_mean(part["share"], part["pair"], bounds=(0.0, 1.0), seed=seed)
            rows.append({"quantity": REPLACED, "setting": setting, "class": "harmful" if harmful else "harmless"} | found.as_row())
        wide = values.pivot_table(index=["pair", "attack"], columns="harmful", values="share").dropna()
        gap = cluster_mean(wide[True] - wide[False], wide.index.get_level_values("pair").to_numpy(), bounds=(-1.0, 1.0), seed=seed)
        rows.append({"quantity": REPLACED, "setting": setting, "class": "harmful minus harmless"} | gap.as_row())
    return pd.DataFrame(rows)


def _replaced(steps: Any) -> float:
    """Share of the guided tokens of one answer that are not those ordinary sampling would have drawn; 0 where none was guided."""
    return float(np.mean([step["candidates"][step["choice"]] != step["plain"] for step in steps])) if len(steps) else 0.0


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    contrasts = t["contrasts"]
    words = {"paper": "as printed", "corrected": "with MSAV corrected", "calibrated": "as calibrated", "untuned": "before calibration"}

    def contrast(setting: str, kind: str) -> Any:
        return estimate_of(row(contrasts, quantity=REPLACED, setting=setting, **{"class": kind}))

    return [
        Claim(
            id=f"intervenes_where_harmful_{setting}",
            statement=f"SafeSteer {words[setting]} replaces more tokens in answers to harmful requests than in answers to their twins.",
            estimate=contrast(setting, "harmful minus harmless"),
            direction="above",
            threshold=0.0,
            unit="difference in share of guided tokens, paired",
            difference_to="the harmless twin in the same form",
            controls=(
                Control("harmful", contrast(setting, "harmful"), kind="context"),
                Control("harmless", contrast(setting, "harmless"), kind="context"),
            ),
            note="Whether the probe orders candidates rightly is the sign test of decoding_separability.",
        )
        for setting in dict.fromkeys(contrasts["setting"])
    ]


def draw(t: dict[str, pd.DataFrame], p: Params) -> Any:
    return {"figure": _strips(t["table"]), "candidates": _grids(t["candidates"])}


def _title(example: pd.DataFrame) -> str:
    first = example.iloc[0]
    return f"{first['setting']}, {first['class']} {first['attack']}: {'refused' if first['outcome'] == 'refuse' else 'answered'}"


def _limit(scores: pd.Series) -> float:
    return max(1.0, float(scores.abs().max()))


def _strips(t: pd.DataFrame) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm

    from safesteer_interp.plotting import new_figure, palette, panels

    examples = [part for _, part in t.groupby("example")]
    rows, limit = -(-len(examples) // 2), _limit(t["score"])
    fig, axes = new_figure(rows=rows, cols=2, width="full", height=0.62 * rows + 0.9, lowest=0.62, squeeze=False)
    for ax, part in zip(axes.flat, examples, strict=False):
        struck = part.assign(struck=part["plain"].where(part["replaced"], ""))
        panels.token_strip(ax, struck, value="score", struck="struck", center=0.0, vmin=-limit, vmax=limit, per_line=46, colorbar=False)
        ax.set_title(_title(part), fontsize=8)
    for ax in axes.flat[len(examples) :]:
        ax.set_axis_off()
    colors = ScalarMappable(TwoSlopeNorm(0.0, -limit, limit), palette.HARM)
    fig.colorbar(
        colors,
        ax=axes,
        orientation="horizontal",
        fraction=0.05,
        aspect=60,
        label="probe score of the token said (log-odds of harmful); struck through: what ordinary sampling would have said",
    )
    return fig


def _grids(t: pd.DataFrame) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import TwoSlopeNorm

    from safesteer_interp.plotting import new_figure, palette, panels

    first = t[t["class"] == "harmful"].groupby("setting", sort=False)["example"].first()
    limit = _limit(t["score"])
    rows = -(-len(first) // 2)
    fig, axes = new_figure(rows=rows, cols=2, width="full", height=2.5 * rows, squeeze=False)
    for ax, number in zip(axes.flat, first, strict=False):
        part = t[t["example"] == number]
        panels.candidate_grid(ax, part, limit=limit)
        ax.set_title(_title(part), fontsize=8)
    for ax in axes.flat[len(first) :]:
        ax.set_visible(False)
    fig.colorbar(
        ScalarMappable(TwoSlopeNorm(0.0, -limit, limit), palette.HARM),
        ax=axes,
        orientation="horizontal",
        fraction=0.03,
        aspect=60,
        label="probe score of the candidate (log-odds of harmful); framed: said; struck through: what ordinary sampling would have said",
    )
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
    profiles={"full": {"pairs": None, "answer_pairs": 48, "examples": 2}},
    order=13,
    captions={
        "figure": "The guided opening tokens on the colour of their probe score; above, struck through, what ordinary sampling would have "
        "said. Examples in which most tokens were replaced; answers are cut after the guided tokens.",
        "candidates": "Candidates of each guided token from likely (top) to unlikely, with the model's probability and the probe's score. "
        "Colours follow the score. Framed: taken. Struck through: what ordinary sampling would have drawn.",
    },
)
