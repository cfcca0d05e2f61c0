"""Where on its way to a refusal is the harm of a picture lost: which states of the text form, put into the picture's pass, restore it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim, Control, estimate_of
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.suitability import COMPARED
from safesteer_interp.tracing.spec import TraceSpec

from ._causes import DONOR, QUANTITIES, Rows, at_depth, forms, layer_grid, meter, pair_by_pair, share, specs
from ._shared import attacks_in, row

ROLES = ("image", "user", "template", "last", "everything")
OWN, TWIN, ANOTHER = "the same request as text", "its harmless twin", "another harmful request"
"""Whose state is put into the picture's pass."""
TEXT, PICTURE = "the text", "the picture"
RESTORED, BY_TWIN = "the picture with the text's last token", "the picture with the harmless text's last token"
SAID = (TEXT, PICTURE, RESTORED, BY_TWIN)
"""What an answer is given to."""
WRITES = ("attn_out", "mlp_out")
EARLY, LATE = 0.3, 0.8
"""Depths, as shares of the layers, that the claims are about: fixed beforehand."""
HALF = 0.5


@dataclass(frozen=True)
class Params:
    pairs: int | None = 24
    """Pairs of the test split."""
    attacks: tuple[str, ...] = ("SD", "TYPO")
    """Forms whose harm lies in the image."""
    layers: int | None = 10
    """Layers at which image, user and template tokens are patched, evenly spaced; None: all. The last token is patched at all."""
    answer_tokens: int = 16
    """Longest answer, in tokens, of what the model says under the strongest patch."""
    seed: int = 0
    """Seed of the intervals and of which pair stands in for another."""


def needs(p: Params) -> list[TraceSpec]:
    return specs(p)


def cost(p: Params, pairs: int, n_layers: int) -> str:
    """What is patched, and from how many recorded passes."""
    grid = len(layer_grid(n_layers, p.layers))
    each = 2 * (4 * grid + n_layers) + len(WRITES) * n_layers + 2 * n_layers
    patches = pairs * len(p.attacks) * each
    answers = pairs * len(p.attacks) * len(SAID)
    recorded = pairs * (3 + len(p.attacks))
    return (
        f"{recorded} recorded prompt passes, {patches} patches of a fraction of a pass each, {answers} answers of {p.answer_tokens} tokens"
    )


def table(ctx: Context, p: Params) -> dict[str, pd.DataFrame]:
    """`table`: share of the gap between text form (donor) and picture form (receiver) by layer, token role and direction; `controls`:
    other donors, last token; `writes`: attention's and MLP's part of the last token; `contrasts`: the numbers claimed; `cost`;
    `answers`: shares of answers that decline, of both forms and of pictures with a text's last token at four fifths of the depth."""
    cells, gaps, spent, answers = _measured(ctx, p)
    seed = ctx.seed("intervals")

    def rows(names: list[str], part: pd.DataFrame) -> pd.DataFrame:
        found = []
        for key, cell in part.groupby(names, sort=False):
            values = dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))
            of = gaps[gaps["attack"] == values["attack"]].set_index("pair").loc[cell["pair"]]
            found += [values | {"quantity": q} | share(cell[q], of[q], cell["pair"], seed=seed) for q in QUANTITIES]
        return pd.DataFrame(found)

    own = cells[(cells["donor"] == OWN) & (cells["write"] == "resid_post")]
    return {
        "table": rows(["attack", "direction", "role", "layer"], own),
        "controls": rows(
            ["attack", "donor", "layer"],
            cells[(cells["role"] == "last") & (cells["direction"] == "restore") & (cells["write"] == "resid_post")],
        ),
        "writes": rows(["attack", "write", "layer"], cells[cells["write"].isin(WRITES)]),
        "contrasts": _contrasts(cells, gaps, seed),
        "cost": spent,
        "answers": _said(answers, seed),
    }


def _measured(ctx: Context, p: Params) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Per pair: the effect of every patch, in nats towards the donor; the gap between the forms; forwards that were spent; answers."""
    from safesteer_interp.interventions import Patch, record, replay
    from safesteer_interp.interventions.alignment import ROLES as EVERYTHING
    from safesteer_interp.interventions.replaying import plan_rows
    from safesteer_interp.sites import Site, SiteKind

    measure, by_pair, model = meter(ctx, p), forms(ctx, p), ctx.model
    grid, pairs = layer_grid(ctx.n_layers, p.layers), list(by_pair)
    others = dict(zip(pairs, np.roll(pairs, 1), strict=True))

    def patches(roles: tuple[str, ...], layers: Any, kind: str = "resid_post") -> list[tuple[str, int, str, Any]]:
        return [
            (role, layer, kind, Patch((Site(SiteKind(kind), layer),), EVERYTHING if role == "everything" else (role,)))
            for role in roles
            for layer in layers
        ]

    everywhere = patches(ROLES[:3], grid) + patches(("last",), range(ctx.n_layers)) + patches(("everything",), grid)
    last = patches(("last",), range(ctx.n_layers))
    writes = [one for kind in WRITES for one in patches(("last",), range(ctx.n_layers), kind)]

    def measured(pair: str, requests: dict[tuple[str, bool], Request]) -> Rows:
        found: Rows = {"cells": [], "gaps": [], "cost": [], "answers": []}
        own = record(model, requests[str(DONOR), True])
        foreign = {
            TWIN: record(model, requests[str(DONOR), False]),
            ANOTHER: record(model, by_pair[others[pair]][str(DONOR), True]),
        }
        for attack in p.attacks:
            picture = record(model, requests[attack, True])
            refused = _answers(ctx, p, requests, attack)
            found["answers"] += [{"attack": attack, "pair": pair, "said": said, "refused": value} for said, value in refused.items()]
            plain = {name: measure(one.final)[0] for name, one in (("text", own), ("picture", picture))}
            gap = plain["text"] - plain["picture"]
            found["gaps"].append({"attack": attack, "pair": pair} | dict(zip(QUANTITIES, gap.tolist(), strict=True)))
            runs = [("restore", OWN, picture, own, everywhere + writes), ("destroy", OWN, own, picture, everywhere)]
            runs += [("restore", name, picture, donor, last) for name, donor in foreign.items()]
            for direction, name, receiver, donor, asked in runs:
                moved = replay(model, receiver, [one[-1] for one in asked], donor=donor, score=measure)
                planned = plan_rows(model, receiver, [one[-1] for one in asked], donor)
                forwards = sum(row.forwards(ctx.n_layers, receiver.length) for row in planned)
                found["cost"].append({"patches": len(asked), "forwards": forwards})
                effect = moved - plain["picture"] if direction == "restore" else plain["text"] - moved
                for (role, layer, kind, _), values in zip(asked, effect.tolist(), strict=True):
                    cell = {"attack": attack, "direction": direction, "donor": name, "role": role, "layer": layer, "write": kind}
                    found["cells"].append(cell | {"pair": pair} | dict(zip(QUANTITIES, values, strict=True)))
        return found

    found = pair_by_pair(ctx, "pairs", by_pair, measured)
    spent = {"patches": int(found["cost"]["patches"].sum()), "forwards": float(found["cost"]["forwards"].sum())}
    return found["cells"], found["gaps"], pd.DataFrame([spent]), found["answers"]


def _answers(ctx: Context, p: Params, requests: dict[tuple[str, bool], Request], attack: str) -> dict[str, bool]:
    """Whether the model declines, by what it is given: one batch of greedy answers. The patch acts on the prompt's pass alone."""
    from safesteer_interp.declining import declines
    from safesteer_interp.interventions import Patch, patched
    from safesteer_interp.sites import Site, SiteKind
    from safesteer_interp.tracing.tracer import Sampling

    late = (Site(SiteKind.RESID_POST, at_depth(layer_grid(ctx.n_layers, p.layers), LATE)),)
    put, left = Patch(late, ("last",)), Patch(late, ("last",), lambda h, donor: h)
    text, twin, picture = requests[str(DONOR), True], requests[str(DONOR), False], requests[attack, True]
    asked = [(text, left, text), (picture, left, text), (picture, put, text), (picture, put, twin)]
    receivers, patches, donors = (list(column) for column in zip(*asked, strict=True))
    made = patched(ctx.model, receivers, patches, donors, sampling=Sampling(p.answer_tokens)).generated
    texts = [ctx.model.tokenizer.decode(ids, skip_special_tokens=True) for ids in made]
    return {said: declines(answer) for said, answer in zip(SAID, texts, strict=True)}


def _said(answers: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Shares that decline, and paired differences to the picture as it is and to the harmless twin's state put in."""
    from safesteer_interp.statistics import cluster_difference, cluster_rate

    found = []
    for attack, lot in answers.groupby("attack", sort=False):
        wide = lot.pivot(index="pair", columns="said", values="refused").astype(float)
        pairs = wide.index.to_numpy(str)
        base: dict[str, Any] = {"attack": attack}
        found += [base | {"said": said, "minus": ""} | cluster_rate(wide[said], pairs, seed=seed).as_row() for said in SAID]
        for said, other in ((RESTORED, PICTURE), (RESTORED, BY_TWIN), (TEXT, PICTURE)):
            change = cluster_difference(wide[said], wide[other], pairs, seed=seed)
            found.append(base | {"said": said, "minus": other} | change.as_row())
    return pd.DataFrame(found)


def _contrasts(cells: pd.DataFrame, gaps: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The numbers that are claimed, each tested against the edge of its claim, and the paired differences that may veto it."""
    found = []
    for attack in dict.fromkeys(cells["attack"]):
        mine, gap = cells[cells["attack"] == attack], gaps[gaps["attack"] == attack].set_index("pair")
        early, late = (at_depth(mine[mine["role"] == "user"]["layer"], depth) for depth in (EARLY, LATE))

        def of(layer: int, role: str = "last", direction: str = "restore", donor: str = OWN, mine: Any = mine, gap: Any = gap) -> Any:
            where = (mine["layer"] == layer) & (mine["role"] == role) & (mine["direction"] == direction) & (mine["donor"] == donor)
            return mine[where & (mine["write"] == "resid_post")].set_index("pair")["refusal"].loc[gap.index].to_numpy()

        measured = {
            "last_late": (of(late), None, HALF),
            "last_late_minus_twin": (of(late), of(late, donor=TWIN), 0.0),
            "last_late_minus_another_pair": (of(late), of(late, donor=ANOTHER), 0.0),
            "another_pair_late": (of(late, donor=ANOTHER), None, HALF),
            "another_pair_late_minus_twin": (of(late, donor=ANOTHER), of(late, donor=TWIN), 0.0),
            "last_early": (of(early), None, HALF),
            "last_early_minus_late": (of(early), of(late), 0.0),
            "image_early": (of(early, "image"), None, HALF),
            "image_early_minus_user": (of(early, "image"), of(early, "user"), 0.0),
            "user_early": (of(early, "user"), None, HALF),
            "destroyed_late": (of(late, direction="destroy"), None, HALF),
            "destroyed_late_minus_early": (of(late, direction="destroy"), of(early, direction="destroy"), 0.0),
        }
        for name, (effect, other, against) in measured.items():
            numbers = share(effect, gap["refusal"], gap.index, against=against, minus=other, seed=seed)
            found.append({"attack": attack, "of": name, "layer": early if "early" in name.split("_minus")[0] else late} | numbers)
    return pd.DataFrame(found)


def claims(t: dict[str, pd.DataFrame], p: Params) -> list[Claim]:
    found = []
    for attack in attacks_in(t["contrasts"]):

        def number(of: str, attack: str = attack) -> Any:
            return estimate_of(row(t["contrasts"], attack=attack, of=of))

        def claim(
            name: str, of: str, direction: Any, statement: str, *controls: Control, attack: str = attack, number: Any = number
        ) -> Claim:
            return Claim(
                id=f"{name}_{attack.lower()}",
                statement=statement,
                estimate=number(of),
                direction=direction,
                threshold=HALF,
                unit="share of the gap between text and picture",
                controls=controls,
            )

        found += [
            claim(
                "last_token_restores",
                "last_late",
                "above",
                f"At four fifths of the depth the last token's state of the text form restores most of what the {attack} form lost.",
                Control("the harmless twin's state", number("last_late_minus_twin"), kind="paired"),
                Control("minus another harmful pair's state", number("last_late_minus_another_pair"), kind="context"),
            ),
            claim(
                "last_token_destroys",
                "destroyed_late",
                "above",
                f"At four fifths of the depth the last token's state of the {attack} form takes most refusal from the text.",
                Control("the same a third of the way up", number("destroyed_late_minus_early"), kind="paired"),
            ),
            claim(
                "last_token_empty_early",
                "last_early",
                "below",
                f"A third of the way up the last token's state of the text form restores less than half of what the {attack} form lost.",
                Control("the same at four fifths", number("last_early_minus_late"), kind="paired"),
            ),
            claim(
                "carries_refusal_not_request",
                "another_pair_late",
                "above",
                f"The last token's late state of another harmful request restores most of the refusal of the {attack} form too.",
                Control("the harmless twin's state", number("another_pair_late_minus_twin"), kind="paired"),
            ),
            claim(
                "image_tokens_do_not_restore",
                "image_early",
                "below",
                f"A third of the way up the blank picture's image tokens restore less than half of what the {attack} form lost.",
                Control("the text form's user tokens", number("image_early_minus_user"), kind="paired"),
            ),
            _answer_claim(t["answers"], attack),
        ]
    return found


def _answer_claim(answers: pd.DataFrame, attack: str) -> Claim:
    """What the strongest patch does to the answer itself."""
    answers = answers.fillna({"minus": ""})

    def number(minus: str) -> Any:
        return estimate_of(row(answers, attack=attack, said=RESTORED, minus=minus))

    return Claim(
        id=f"answers_refuse_again_{attack.lower()}",
        statement=f"With the text form's last token at four fifths of the depth more answers to {attack} requests decline.",
        estimate=number(PICTURE),
        direction="above",
        threshold=0.0,
        unit="difference in the share of answers that decline, paired",
        difference_to="the picture as it is",
        controls=(
            Control("the harmless twin's last token", number(BY_TWIN), kind="paired"),
            Control("the text itself", estimate_of(row(answers, attack=attack, said=TEXT, minus=PICTURE)), kind="context"),
        ),
        note="The patch acts on the first token's pass; later tokens look back at the picture.",
    )


def draw(t: dict[str, pd.DataFrame], p: Params) -> dict[str, Any]:
    from safesteer_interp.plotting import new_figure, panels

    shown = t["table"][t["table"]["quantity"] == "refusal"]
    attacks = attacks_in(shown)
    fig, axes = new_figure(rows=2, cols=len(attacks), width="full", height=4.6, squeeze=False)
    for direction, line in zip(("restore", "destroy"), axes, strict=True):
        for attack, ax in zip(attacks, line, strict=True):
            part = shown[(shown["attack"] == attack) & (shown["direction"] == direction)]
            grid = part[part["layer"].isin(part[part["role"] == "user"]["layer"])]
            panels.layer_step_heatmap(
                ax,
                grid,
                x="layer",
                y="role",
                label="share of the gap",
                center=0.0,
                vmin=-1.0,
                vmax=1.0,
                xlabel="decoder layer",
                ylabel="",
                colorbar=attack == attacks[-1],
            )
            ax.set_title(f"text into {attack}: refusal restored" if direction == "restore" else f"{attack} into text: refusal destroyed")
    lines, row_axes = new_figure(rows=1, cols=2 * len(attacks), width="full", height=2.9, squeeze=False)
    controls, writes = (t[name][t[name]["quantity"] == "refusal"] for name in ("controls", "writes"))
    writes = writes.replace({"write": {"attn_out": "attention's output", "mlp_out": "MLP's output"}})
    for i, attack in enumerate(attacks):
        left, right = row_axes[0][2 * i], row_axes[0][2 * i + 1]
        panels.layer_curve(
            left, controls[controls["attack"] == attack], by="donor", kind="series", ylabel="share of the gap restored", legend=i == 0
        )
        panels.layer_curve(right, writes[writes["attack"] == attack], by="write", kind="series", ylabel="", legend=i == 0)
        left.set_title(f"{attack}: last token")
        right.set_title(f"{attack}: what is written")
    return {"figure": fig, "last_token": lines}


ANALYSIS = Analysis(
    id="patching_text_to_image",
    title="Activation patching from text to image",
    params=Params,
    needs=needs,
    table=table,
    claims=claims,
    draw=draw,
    cites=("arXiv:2605.11716", "arXiv:2202.05262", "arXiv:2304.14767"),
    requires_images=True,
    cost=cost,
    attacks=(Attack.CB, Attack.SD, Attack.TYPO),
    data=COMPARED,
    profiles={"full": {"pairs": None, "layers": None}},
    order=20,
    captions={
        "figure": "Residual stream after each layer, token role by token role. Units: the gap in refusal log-odds between a pair's text "
        "form (CB) and its picture form; 1 is all of it. Hatched: the 95 % interval over pairs reaches across 0. What patching everything "
        "leaves of the gap is the cost of aligning prompts of unequal length.",
        "last_token": "The last token alone. Left: whose state is put there; right: what attention and MLP of one layer write there. "
        "Bands: 95 % over pairs.",
    },
)
