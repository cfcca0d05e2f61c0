"""The gap between text and pictures that mini's projectors leave is drawn from its card."""

from __future__ import annotations

import json

import pytest

from safesteer_interp.mini_training.card import MEASURES
from safesteer_interp.mini_training.projector_gap import draw_projector_gap, gap_tables


def test_the_gap_of_mini_is_drawn_for_every_recipe_of_its_card() -> None:
    card = json.loads(MEASURES.read_text())
    rates, gaps = gap_tables(card)
    assert rates["recipe"].iloc[0] == card["default"]
    for recipe, measures in card["recipes"].items():
        mine = rates[(rates["recipe"] == recipe) & (rates["side"] == "harmful")].set_index("label")["value"]
        assert mine["SD"] == measures["refuses_harmful_SD"]["value"] and len(mine) == 5
        assert set(gaps[gaps["recipe"] == recipe]["label"]) == {"SD", "TYPO", "SD_TYPO"}
    assert len(draw_projector_gap(card).axes) == 3
    with pytest.raises(ValueError, match="no projector recipe"):
        gap_tables({"default": "released", "recipes": {}})
