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
