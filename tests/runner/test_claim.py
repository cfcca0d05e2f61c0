"""Verdicts come from intervals alone; parameters come from text with one clear sentence when they cannot."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesteer_interp.errors import UsageError
from safesteer_interp.fields import field_help
from safesteer_interp.requests import Attack
from safesteer_interp.runner.claim import Claim, Control, Verdict, claim_records, estimate_of
from safesteer_interp.runner.params import as_record, from_record, is_list, with_overrides
from safesteer_interp.statistics import Estimate

FLAT = Control("shuffled_labels", Estimate(0.5, 0.45, 0.55, 40))


def claim(low: float, high: float, direction: str = "above", threshold: object = 0.6, control: Control = FLAT) -> Claim:
    middle = Estimate((low + high) / 2, low, high, 40, 20)
    return claimed(middle, direction, threshold, (control,))


def claimed(estimate: Estimate, direction: str, threshold: object, controls: tuple[Control, ...]) -> Claim:
    words = {"id": "c", "statement": "A sentence."}
    return Claim(estimate=estimate, direction=direction, threshold=threshold, controls=controls, **words)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "direction", "threshold", "verdict"),
    [
        (0.7, 0.8, "above", 0.6, "supported"),
        (0.55, 0.8, "above", 0.6, "undecided"),
        (0.3, 0.4, "above", 0.6, "contradicted"),
        (0.6, 0.8, "above", 0.6, "undecided"),
        (0.1, 0.2, "below", 0.3, "supported"),
        (0.4, 0.5, "below", 0.3, "contradicted"),
        (-0.1, 0.1, "within", (-0.2, 0.2), "supported"),
        (-0.3, 0.1, "within", (-0.2, 0.2), "undecided"),
        (0.3, 0.4, "within", (-0.2, 0.2), "contradicted"),
        (math.nan, math.nan, "above", 0.6, "undecided"),
    ],
)
def test_a_verdict_is_where_the_whole_interval_lies(low: float, high: float, direction: str, threshold: object, verdict: str) -> None:
    control = Control("shuffled_labels", Estimate(0.5, 0.45, 0.55, 40), null=direction == "above")
    assert claim(low, high, direction, threshold, control).verdict == verdict


def test_a_null_control_that_meets_the_claim_leaves_it_undecided() -> None:
    too = Control("bag_of_words", Estimate(0.8, 0.7, 0.9, 40))
    decided = claim(0.7, 0.9, control=too)
    assert decided.verdict is Verdict.UNDECIDED
    assert "bag_of_words" in decided.reason
    assert claim(0.7, 0.9, control=Control("bag_of_words", too.estimate, null=False)).verdict is Verdict.SUPPORTED


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1))
def test_flipping_the_effect_flips_the_verdict(low: float, width: float, threshold: float) -> None:
    far = Control("random_direction", Estimate(0, 0, 0, 40), null=False)
    here = claim(low, low + width, "above", threshold, far).verdict
    there = claim(-low - width, -low, "above", -threshold, far).verdict
    flipped = {"supported": "contradicted", "contradicted": "supported", "undecided": "undecided"}
    assert there == flipped[here]
    assert claim(-low - width, -low, "below", -threshold, far).verdict == here


def test_a_claim_needs_a_control_and_a_fitting_threshold() -> None:
    with pytest.raises(ValueError, match="no control"):
        claimed(Estimate(1, 0, 2, 3), "above", 0.5, ())
    with pytest.raises(ValueError, match="within"):
        claimed(Estimate(1, 0, 2, 3), "within", 0.5, (FLAT,))


def test_the_record_holds_what_a_reader_needs_and_is_json() -> None:
    record = claim_records([claim(0.7, math.nan)], model="mini", dataset="bundled", scope="Only mini.")
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    found = record["claims"][0]
    assert found["estimate"] == {"value": None, "low": 0.7, "high": None, "n": 40, "clusters": 20, "level": 0.95}
    assert found["verdict"] == "undecided"
    assert found["controls"][0]["name"] == "shuffled_labels"
    with pytest.raises(ValueError, match="distinct"):
        claim_records([claim(0, 1), claim(0, 1)], model="mini", dataset="bundled", scope="")


def test_an_estimate_comes_back_from_a_row() -> None:
    row = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 30, "clusters": 15.0}
    assert estimate_of(row) == Estimate(0.9, 0.8, 1.0, 30, 15)
    assert estimate_of({**row, "clusters": math.nan}).clusters is None


@dataclass(frozen=True)
class Settings:
    pairs: int | None = 40
    """Pairs per split."""
    layers: tuple[int, ...] = ()
    """Decoder layers."""
    attacks: tuple[Attack, ...] = (Attack.CB,)
    rate: float = 0.5
    mode: Literal["pca", "lda"] = "pca"
    verbose: bool = False


@dataclass(frozen=True)
class Narrower(Settings):
    pairs: int | None = 4
    """Pairs that are answered."""
    extra: int = 1
    """One more."""


def test_parameters_are_read_from_text() -> None:
    p = with_overrides(
        Settings, {"pairs": "none", "layers": "0-3,7", "attacks": "SD,TYPO", "rate": "1e-2", "mode": "lda", "verbose": "yes"}
    )
    assert p == Settings(None, (0, 1, 2, 3, 7), (Attack.SD, Attack.TYPO), 0.01, "lda", True)
    assert from_record(Settings, as_record(p)) == p
    assert json.loads(json.dumps(as_record(p)))["attacks"] == ["SD", "TYPO"]
    assert is_list(Settings, "layers") and not is_list(Settings, "pairs")
    assert field_help(Settings)["pairs"] == "Pairs per split." and field_help(Settings)["rate"] == ""
    assert list(field_help(Narrower)) == [*field_help(Settings), "extra"]
    assert field_help(Narrower)["pairs"] == "Pairs that are answered." and field_help(Narrower)["extra"] == "One more."


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layer", "3", 'no parameter "layer".*"layers"'),
        ("pairs", "many", "toy.pairs.*whole number"),
        ("layers", "0-x", "whole numbers such as"),
        ("mode", "tsne", "pca, lda"),
        ("attacks", "BC", "one of TEXT"),
        ("verbose", "perhaps", "true or false"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_overrides(Settings, {name: value}, owner="toy")


def test_a_stored_field_that_is_gone_is_named() -> None:
    with pytest.raises(UsageError, match="depth"):
        from_record(Settings, {"depth": 3})
