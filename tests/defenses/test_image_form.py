"""MSAV fitted on the image form there is, and applied by the rule that is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.registry import choose
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.planted import planted_requests
from safesteer_interp.requests import Attack
from safesteer_interp.tracing.collecting import collect
from safesteer_interp.vectors.alignment import PROJECTION_RULE


@pytest.fixture(scope="module")
def trace(planted: Any) -> Any:
    """Texts and typography: no picture anywhere."""
    requests = planted_requests(24, attacks=(Attack.CB, Attack.TYPO))
    return collect(planted, requests, sites="final_norm", reads="last_prompt,step:1-3", store=None, progress=False)


def test_without_pictures_the_vector_is_fitted_on_typography(planted: Any, trace: Any) -> None:
    with pytest.raises(InputError, match=r'no "SD" request in the fit split.*image_form'):
        SafeSteer.from_trace(planted, trace, force=True)
    defense = SafeSteer.from_trace(planted, trace, image_form="TYPO", norm="projection", force=True)
    fit = (trace.index["split"] == "fit").to_numpy() & trace.index["harmful"].to_numpy()
    means = [
        torch.from_numpy(trace.rows("final_norm")[fit & (trace.index["attack"] == form).to_numpy()]).double().mean(0)
        for form in ("TYPO", "CB")
    ]
    assert defense.vector is not None and defense.rule == PROJECTION_RULE
    torch.testing.assert_close(defense.vector.mu.double(), means[0] - means[1], rtol=1e-4, atol=1e-4)


def test_form_and_rule_are_options_and_are_checked_before_anything_is_fitted() -> None:
    settings = Settings()
    choose("safesteer", ["image_form=TYPO", "norm=projection"]).check(settings)
    for word, said in (("image_form=CB", '"CB" is no form with the harm in the image'), ("image_form=TYP0", 'Did you mean "TYPO"')):
        with pytest.raises(UsageError, match=said):
            choose("safesteer", [word]).check(settings)
    with pytest.raises(UsageError, match='norm "projected" is unknown'):
        choose("safesteer", ["norm=projected"]).check(settings)
