"""What findings compute of numbers at hand, without a model: bounds that are known, and units that are measured on the same pairs."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from safesteer_interp import runner
from safesteer_interp.statistics import cluster_jackknife

FOLDER = Path(__file__).parents[2] / "analyses"


def test_equal_selectivities_have_the_interval_of_the_rule_of_three() -> None:
    paired_rows = runner.discover(FOLDER)["defense_comparison"]._module["paired_rows"]
    wide = pd.DataFrame({"one": [1.0] * 20, "none": [0.0] * 20})
    found = paired_rows(wide, "one", "none", np.arange(20), outcomes=False)
    missed = 1 - 0.025 ** (1 / 20)
    assert (found["value"], found["low"], found["high"]) == (1.0, pytest.approx(1 - 3 * missed), pytest.approx(1 + missed)), "in -2 to 2"


def test_the_shift_of_scores_is_held_against_a_gap_that_is_no_better_known() -> None:
    """Harmful prompts score 4 +- 2 and harmless ones 0 +- 2; answers score 2 less than their prompts."""
    rng, pairs, harmful = np.random.default_rng(0), np.repeat(np.arange(40), 2), np.tile([True, False], 40)
    prompts = 4.0 * harmful + rng.normal(0, 2, 80)
    tokens = prompts - 2 + rng.normal(0, 0.1, 80)

    class View:
        def rows(self, site: str, read: str) -> np.ndarray:
            return (prompts if read == "last_prompt" else tokens)[:, None]

    class Probe:
        def decision_at(self, states: np.ndarray, steps: np.ndarray) -> np.ndarray:
            return states[:, 0]

    premises = runner.discover(FOLDER)["defense_ablation"]._module["premises"]
    shift = sys.modules[premises.__module__].__dict__["_shift"]
    found = {r["class"]: r for r in shift(View(), Probe(), 3, harmful, pairs, 0)}
    gap = prompts[harmful].mean() - prompts[~harmful].mean()
    for kind, side in (("harmful", harmful), ("harmless", ~harmful)):
        own = found[kind]
        assert own["value"] == pytest.approx((tokens - prompts)[side].mean() / gap, abs=0.01)
        assert (own["n"], own["clusters"], own["against"]) == (40, 40, -0.5)
        per_pair = prompts[harmful] - prompts[~harmful]
        error = 2 / gap**2 * per_pair.std(ddof=1) / np.sqrt(40)
        assert (own["high"] - own["low"]) / 2 == pytest.approx(2.02 * error, rel=0.15), "nearly all of it is the gap's"


def test_where_harm_lies_on_the_axis_is_a_ratio_of_two_numbers_that_are_measured() -> None:
    place = runner.discover(FOLDER)["modality_stealth"]._module["_place"]
    rng, pairs = np.random.default_rng(1), np.arange(30)
    text, image = rng.normal(4, 2, 30), rng.normal(2, 0.01, 30)
    zero = np.zeros(30)
    found = cluster_jackknife(place, [image, zero, text, zero], pairs)
    assert found.value == pytest.approx(2 / text.mean(), abs=0.02)
    assert (found.high - found.low) / 2 == pytest.approx(2.05 * 2 / text.mean() ** 2 * text.std(ddof=1) / np.sqrt(30), rel=0.15)
    same = cluster_jackknife(place, [text, zero, text, zero], pairs)
    assert same.value == 1 and math.isnan(same.low), "text is where text is, by definition"


READ_ON = {
    **dict.fromkeys(("prefill_separability", "decoding_separability", "modality_stealth", "layer_choice"), ("fit", "test")),
    **dict.fromkeys(("modality_transfer", "modality_gap", "probe_training", "alignment_vector", "harm_by_stage"), ("fit", "test")),
    **dict.fromkeys(("guidance_budget", "case_study", "throughput"), ("fit", "test")),
    "defense_ablation": ("fit", "test", "test"),
    "refusal_lens": ("test", "fit"),
    "typography_or_text": ("test",),
    "alignment_controls": ("fit", "validation", "test", "fit"),
    "refusal_direction": ("fit", "validation", "test"),
    "steering_dose_response": ("fit", "fit", "fit", "validation", "test"),
    **dict.fromkeys(("defense_comparison", "judge_agreement", "defense_composition", "paper_numbers"), ("fit", "validation", "test")),
    **dict.fromkeys(("patching_text_to_image", "attention_routes", "image_token_lens", "adaptive_probe"), ("test", "fit", "fit")),
    "readable_and_used": ("test", "fit", "fit", "fit"),
    "component_attribution": ("validation", "test", "fit"),
}
"""Finding -> the split of each thing it reads: fitted on "fit", chosen on "validation", reported on "test"."""
REFUSAL_WORDS = (("TEXT",), "fit")
"""Attack and split of the answers that a model's refusal tokens are taken from."""


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_findings_are_fitted_chosen_and_reported_on_the_splits_they_say(profile: str) -> None:
    """A finding that is added says here on which splits; none reads a data set whole, nor what mini was trained on."""
    found = {name: a.needs(a.parameters(profile)) for name, a in runner.discover(FOLDER).items()}
    assert {name: tuple(map(str, (spec.split for spec in specs))) for name, specs in found.items()} == READ_ON
    for name, specs in found.items():
        if READ_ON[name][0] == "test" and len(specs) > 1:
            last = specs[-1] if name != "readable_and_used" else specs[-2]
            assert (tuple(map(str, last.attacks or ())), str(last.split)) == REFUSAL_WORDS, name
