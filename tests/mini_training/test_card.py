"""The model card's tables say what the records beside the weights say."""

from __future__ import annotations

from safesteer_interp.files import read_json
from safesteer_interp.mini_training.card import CARD, MEASURES, TRAININGS, trainings_table, with_numbers
from safesteer_interp.models.mini.assemble import shipped


def test_the_tables_of_the_model_card_are_those_of_its_records() -> None:
    card, trainings = read_json(MEASURES), read_json(TRAININGS)
    text = CARD.read_text(encoding="utf-8")
    assert with_numbers(text, card, trainings) == text, "run mini_training.card.update_card()"
    assert card["compute"] == shipped()["compute"], "the card is of the weights that are shipped"
    assert all(name in trainings_table(card, trainings) for name in ("shipped", *trainings))
