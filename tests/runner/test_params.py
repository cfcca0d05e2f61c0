"""Parameters come from text with one clear sentence when they cannot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from safesteer_interp.errors import UsageError
from safesteer_interp.fields import field_help
from safesteer_interp.requests import Attack
from safesteer_interp.runner.params import as_record, from_record, is_list, with_overrides


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
