"""Rules of single claims, from tables made by hand: what is a check, what is not decided, and what a claim is held against."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safesteer_interp import runner
from safesteer_interp.evaluation.labelled import TUNED
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.claim import Claim
from safesteer_interp.runner.verdict import judge
from safesteer_interp.statistics import Estimate

FOLDER = Path(__file__).parents[2] / "analyses"


def analysis(name: str) -> Analysis:
    return runner.discover(FOLDER)[name]


def claims_of(name: str, tables: Any, **settings: Any) -> dict[str, Claim]:
    """The claims of an analysis by id, from its tables."""
    chosen = analysis(name)
    return {claim.id: claim for claim in chosen.claims(tables, chosen.parameters("quick", settings))}


def verdicts_of(claims: dict[str, Claim]) -> dict[str, str]:
    return {judged.claim.id: str(judged.verdict) for judged in judge(list(claims.values()))}


def number(value: float, half: float = 0.05, *, against: float = 0.0, p: float = 0.0001, n: int = 24) -> dict[str, Any]:
    """The columns of an estimate with a symmetric interval."""
    return Estimate(value, value - half, value + half, n, n, p=p, against=against).as_row()


# --- attention_routes


def routes() -> pd.DataFrame:
    """All is lost over one route by construction; a good part of it over the direct one."""
    found = []
    for attack in ("CB", "SD"):
        for quantity in ("refusal", "probe"):
            for route, other in (
                ("image to all", "user to all"), ("user to all", "image to all"), ("image to last", "image to user"),
                ("user to last", "template to last"),
            ):  # fmt: skip
                of = {"attack": attack, "quantity": quantity, "route": route}
                found.append(of | {"minus": ""} | number(1.0 if route.endswith("all") else 0.8, against=0.5))
                found.append(of | {"minus": other} | number(0.6))
    return pd.DataFrame(found)


def test_a_route_that_all_that_differs_must_take_is_a_check_and_no_finding() -> None:
    claims = claims_of("attention_routes", {"contrasts": routes()})
    kinds = {name: claim.kind for name, claim in claims.items()}
    assert kinds == {
        "refusal_comes_from_the_words_cb": "sanity", "refusal_is_read_directly_cb": "finding",
        "harm_comes_from_the_image_sd": "sanity", "harm_is_read_directly_sd": "finding",
    }  # fmt: skip
    assert set(verdicts_of(claims).values()) == {"supported"}
    assert "share their words and differ in their pictures alone" in claims["harm_comes_from_the_image_sd"].note
    assert "share their picture and differ in their words alone" in claims["refusal_comes_from_the_words_cb"].note
    assert not claims["harm_is_read_directly_sd"].note


# --- adaptive_probe


def attacked(clean: float, changed: float) -> pd.DataFrame:
    """AUROC of every detector on unchanged pictures and on changed ones."""
    found = []
    for detector in ("the probe", "the same probe on other pairs", "the mean of random probes"):
        of = {"attack": "SD", "detector": detector}
        found.append(of | {"epsilon": 0.0, "quantity": "auroc"} | number(clean, against=0.75))
        found.append(of | {"epsilon": 4.0, "quantity": "auroc"} | number(changed, against=0.75))
        found.append(of | {"epsilon": 4.0, "quantity": "auroc lost"} | number(changed - clean))
    return pd.DataFrame(found)


def test_a_probe_that_tells_nothing_has_nothing_to_lose() -> None:
    claims = claims_of("adaptive_probe", attacked(0.52, 0.43))
    assert list(claims) == ["known_probe_loses_sd", "refitted_probe_loses_sd", "random_probe_loses_sd"]
    assert set(verdicts_of(claims).values()) == {"supported"}, "the loss is there"
    assert "unchanged pictures: 0.52 [0.47, 0.57], not clear of 0.75" in claims["known_probe_loses_sd"].note
    assert "the mean score of 8 random probes" in claims["random_probe_loses_sd"].statement


def test_a_probe_that_tells_harm_fails_where_it_is_left_less_than_its_worth() -> None:
    claims = claims_of("adaptive_probe", attacked(0.9, 0.6))
    verdicts = verdicts_of(claims)
    assert len(claims) == 6 and verdicts["known_probe_fails_sd"] == verdicts["known_probe_loses_sd"] == "supported"
    assert claims["known_probe_fails_sd"].note.startswith("AUROC on unchanged pictures: 0.90 [0.85, 0.95]. ")
    assert verdicts_of(claims_of("adaptive_probe", attacked(0.95, 0.85)))["known_probe_fails_sd"] == "contradicted"
    assert "known_probe_fails_sd" not in claims_of("adaptive_probe", attacked(0.79, 0.6)), "its interval reaches below 0.75"


# --- image_token_lens


def located(better: float) -> pd.DataFrame:
    """Per picture: AUROC of two maps, better than the distance from the blank token by some (in the mean)."""
    rng, found = np.random.default_rng(0), []
    for i in range(24):
        plain = 0.7 + 0.05 * rng.standard_normal()
        for name, more in (("refusal", better), ("probe", better), ("change", 0.0)):
            of = {"attack": "SD", "layer": 0, "map": name, "truth": "pixels that differ", "pair": f"p{i}"}
            found.append(of | {"auroc": plain + more + 0.01 * rng.standard_normal() * bool(more), "shuffled": 0.5})
    return pd.DataFrame(found)


@pytest.mark.parametrize(("better", "verdict"), [(0.1, "supported"), (-0.1, "undecided")])
def test_a_map_has_to_do_better_than_the_distance_from_the_blank_token(better: float, verdict: str) -> None:
    table = analysis("image_token_lens")._module["_summaries"](located(better), 0)
    rows = table[(table["map"] == "probe") & (table["quantity"] == "minus change")]
    assert rows["value"].tolist() == pytest.approx([better], abs=0.02) and rows["clusters"].tolist() == [24]
    assert not ((table["map"] == "change") & (table["quantity"] == "minus change")).any()
    claims = claims_of("image_token_lens", {"table": table})
    assert set(verdicts_of(claims).values()) == {verdict}
    assert {c.name: c.kind for c in claims["probe_map_finds_the_harm_sd"].controls} == {
        "shuffled tokens": "paired", "distance from the blank token": "paired",
    }  # fmt: skip


# --- judge_agreement, defense_comparison


def test_wherever_a_judge_is_called_good_it_is_said_on_which_answers(root: Path) -> None:
    agreement, comparison = analysis("judge_agreement"), analysis("defense_comparison")
    for caption in (agreement.captions["figure"], comparison.captions["judges"]):
        assert TUNED in caption and "labelled for this" in caption
    folder = root / "figures" / "defense_comparison" / "mini"
    tables = {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}
    claims = [claim for claim in claims_of("defense_comparison", tables).values() if claim.id.startswith("lowers_")]
    assert claims and all(claim.note.endswith(TUNED) for claim in claims)


def test_what_the_suites_rule_read_first_is_drawn_beside_what_it_reads_now(root: Path) -> None:
    from safesteer_interp.evaluation.labelled import first_read, qualities
    from safesteer_interp.plotting import style

    chosen = analysis("judge_agreement")
    tables = {path.stem: pd.read_csv(path) for path in (root / "figures" / "judge_agreement" / "mini").glob("*.csv")}
    tables["labelled"] = pd.concat([qualities(), first_read()], ignore_index=True)
    with style():
        ax = chosen.draw(tables, chosen.parameters("quick")).axes[2]
    names = [text.get_text() for text in ax.get_yticklabels()]
    place = names.index("default, first read")
    points = [xy for made in ax.collections for xy in np.asarray(made.get_offsets()) if abs(xy[1] - place) < 0.5]
    assert sorted(round(float(x), 2) for x, _ in points if np.isfinite(x)) == [0.93, 0.93]
    assert ax.get_title("left") == "on answers written for this"


# --- decoding_separability, refusal_direction, captions


def ends(value: float) -> dict[str, pd.DataFrame]:
    """What `decoding_separability` claims of late steps, with an AUROC at the last one."""
    band, of = (0.35, 0.65), {"fit": "prompt", "contrast": "refuse over comply"}
    estimate = Estimate(value, value - 0.05, value + 0.05, 40, 24, p=0.001, against=band, kind="auroc").as_row()
    known = [{"scorer": name, "step": "all"} | number(0.8, against=0.5) for name in ("prompt", "random_direction (prompt)")]
    return {
        "choices": pd.DataFrame(known),
        "differences": pd.DataFrame([{"scorer": "prompt"} | number(-0.2)]),
        "separation": pd.DataFrame([of | {"step": step} | estimate for step in (1, 9)]),
        "last": pd.DataFrame([{"fit": "prompt", "median_step": 7.0, "ended": 1.0} | estimate]),
    }


def test_an_auroc_below_the_band_is_told_to_be_turned_round() -> None:
    turned, apart = (claims_of("decoding_separability", ends(value)) for value in (0.13, 0.98))
    assert verdicts_of(turned)["fades_with_steps"] == verdicts_of(apart)["fades_with_steps"] == "contradicted"
    assert turned["fades_with_steps"].note == "Turned round: refusals score below compliance." and not apart["fades_with_steps"].note
    assert turned["fades_at_the_last_token"].note.startswith("Turned round: refusals score below compliance. The median answer ends at")
    assert apart["fades_at_the_last_token"].note == "The median answer ends at step 7; 0% were cut at 64."
    assert "better than a coin here (0.5); a random direction may do so, too" in turned["orders_candidates_prompt"].note


@pytest.mark.parametrize("kept", [True, False])
def test_a_direction_that_meets_no_condition_is_called_a_near_miss(root: Path, kept: bool) -> None:
    from safesteer_interp.plotting import style

    chosen = analysis("refusal_direction")
    tables = {path.stem: pd.read_csv(path) for path in (root / "figures" / "refusal_direction" / "mini").glob("*.csv")}
    tables["selection"]["kept"] = tables["selection"]["chosen"] & kept
    with style():
        figure = chosen.draw(tables, chosen.parameters("quick"))["figure"]
    said = {text.get_text() for ax in figure.axes for text in ax.texts}
    assert ("chosen" in said, "nearest miss" in said) == (kept, not kept)
    assert "the nearest miss was taken" in chosen.captions["figure"]


def test_captions_say_what_is_drawn() -> None:
    assert "largest variation" not in (caption := analysis("prefill_separability").captions["figure"])
    assert "height within a row means nothing; bars: class means" in caption
    assert "of the width that the title names" in analysis("layer_choice").captions["image_tokens"]


def test_the_panel_of_image_tokens_names_the_width_of_its_probes(root: Path) -> None:
    from safesteer_interp.plotting import style

    chosen = analysis("layer_choice")
    tables = {path.stem: pd.read_csv(path, keep_default_na=False) for path in (root / "figures" / "layer_choice" / "mini").glob("*.csv")}
    for table in tables.values():
        for column in {"value", "low", "high", "n", "clusters", "p", "against"} & set(table):
            table[column] = pd.to_numeric(table[column], errors="coerce")
    with style():
        ax = chosen.draw(tables, chosen.parameters("quick"))["image_tokens"].axes[0]
    assert ax.get_title("left") == "mean over the image tokens, 4 components"


# --- steering_dose_response


def steered(unsteered: dict[bool, list[float]], after: dict[bool, list[float]]) -> pd.DataFrame:
    """Answers of 20 pairs, by (harmful, place in a list that is repeated): refused without steering, and under every dose."""
    found = []
    for harmful in (True, False):
        for i in range(20):
            of = {"request": f"{i} {harmful}", "pair": f"p{i}", "attack": "SD", "harmful": harmful, "seed": 0, "degenerate": 0.0,
                  "log_perplexity": 1.0}  # fmt: skip
            for name in ("none", *(f"{s}/{dose}" for s in ("msav", "refusal") for dose in ("0.5", "1"))):
                refused = (unsteered if name == "none" else after)[harmful]
                found.append(of | {"defense": name, "refused": refused[i % len(refused)]})
            for s in ("msav", "refusal") if harmful else ():
                refused = unsteered[harmful]
                found.append(of | {"defense": f"{s}/random_direction", "refused": refused[i % len(refused)]})
    return pd.DataFrame(found)


def steering_tables(answers: pd.DataFrame, *, acts: float = 4.0) -> dict[str, pd.DataFrame]:
    chosen = analysis("steering_dose_response")
    p = chosen.parameters("quick", {"doses": (0.5, 1.0), "msav_doses": (0.5, 1.0)})
    selection = pd.DataFrame([{"layer": 7, "of": of, "chosen": True} | number(acts) for of in ("harmful", "harmful minus harmless")])
    return {"contrasts": chosen._module["_contrasts"](answers, p, 0), "selection": selection}


def spared(tables: dict[str, pd.DataFrame]) -> dict[str, Claim]:
    return claims_of("steering_dose_response", tables, doses=(0.5, 1.0), msav_doses=(0.5, 1.0))


def test_what_is_newly_refused_is_a_share_of_what_was_answered() -> None:
    """A quarter of the harmless is refused to begin with; of the other three quarters two thirds are newly refused, half of all."""
    harmless = [1.0, 0.0, 0.0, 0.0]
    tables = steering_tables(steered({True: [0.0], False: harmless}, {True: [1.0], False: [1.0, 1.0, 1.0, 0.0]}))
    claim = spared(tables)["spares_harmless_msav"]
    assert claim.estimate.value == pytest.approx(2 / 3) and claim.estimate.n == 15
    (control,) = claim.controls
    assert control.estimate.value == pytest.approx(2 / 3 - 1) and control.estimate.clusters == 15, "pairs of which both were answered"


def test_where_nothing_harmless_was_answered_nothing_can_be_spared() -> None:
    tables = steering_tables(steered({True: [0.0], False: [1.0]}, {True: [1.0], False: [1.0]}))
    assert not any(name.startswith("spares") for name in spared(tables)) and "restores_refusal_msav" in spared(tables)


def test_nothing_is_claimed_of_a_refusal_direction_whose_layer_does_nothing() -> None:
    answers = steered({True: [0.0], False: [0.0]}, {True: [1.0], False: [0.0]})
    acting, idle = (spared(steering_tables(answers, acts=value)) for value in (4.0, 0.03))
    assert acting["refusal_layer_acts"].kind == "sanity" and verdicts_of(acting)["refusal_layer_acts"] == "supported"
    assert (
        "Layer 7 was chosen" in acting["restores_refusal_refusal"].note and "4.00 [3.95, 4.05] nats" in acting["acts_on_harm_refusal"].note
    )
    assert verdicts_of(idle)["refusal_layer_acts"] == "undecided" and "nothing is claimed" in idle["refusal_layer_acts"].note
    assert [name for name in idle if name.endswith("_refusal")] == [] and "restores_refusal_msav" in idle


def test_the_layer_to_steer_at_is_one_that_does_something() -> None:
    pick = import_module("safesteer_interp.analyses._steering").chosen_layer
    effects = {13: (0.04, 0.05, 0.01), 18: (3.8, 0.2, -0.08), 22: (4.5, 0.3, -0.19)}  # as measured on mini
    rows = [
        {"layer": layer, "of": of} | number(value, half)
        for layer, (harmful, half, beyond) in effects.items()
        for of, value in (("harmful", harmful), ("harmless", harmful - beyond), ("harmful minus harmless", beyond))
    ]
    assert pick(pd.DataFrame(rows)) == 18
    assert pick(pd.DataFrame([r for r in rows if r["layer"] == 13])) == 13, "none is clear of 0: the best of all"
