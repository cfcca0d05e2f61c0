"""Rules of single claims, from tables made by hand: what is a check, what is not decided, and what a claim is held against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from safesteer_interp import runner
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
