"""SafeSteer's own analysis set D (arXiv 2605.11716 section 3.1): what its probe and its alignment vector are fitted on.

200 harmful requests: 50 questions of MM-SafetyBench's scenario 01, each as SD, TYPO, SD_TYPO and CB (the question beside a blank image).
200 harmless ones: MM-Vet. The paper does not say which: the first by id are taken. All are of the split `fit`, for the paper holds none
back; MM-Vet is also its measure of utility, so that 200 of those 218 answers come from requests that were fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safesteer_interp.datasets.dataset import Dataset
from safesteer_interp.datasets.mm_safetybench import SCENARIOS, load_mm_safetybench
from safesteer_interp.datasets.mm_vet import load_mm_vet
from safesteer_interp.requests import Attack, Request, Split

HARMFUL, HARMLESS = 50, 200
FORMS = (Attack.CB, Attack.SD, Attack.TYPO, Attack.SD_TYPO)


def load_safesteer_d(root: Path, *, attacks: Sequence[Attack | str] | None = None) -> list[Request]:
    """D in the `attacks` asked for (all four), and MM-Vet. Raises InputError naming the missing file or picture."""
    forms = FORMS if attacks is None else tuple(Attack(a) for a in attacks)
    harmful = load_mm_safetybench(root, attacks=forms, scenarios=SCENARIOS[:1], benign=False)
    kept = set(list(dict.fromkeys(r.pair for r in harmful))[:HARMFUL])
    chosen = [*(r for r in harmful if r.pair in kept), *load_mm_vet(root)[:HARMLESS]]
    return [replace(r, split=Split.FIT) for r in chosen]


ENTRY = Dataset(
    "SafeSteer's analysis set D: MM-SafetyBench scenario 01 in four forms, and MM-Vet; option: attacks",
    load_safesteer_d,
    folder="mm_safetybench",
    licence="CC BY-NC 4.0 (both parts)",
    citation="arXiv:2605.11716; arXiv:2311.17600; arXiv:2308.02490",
)
