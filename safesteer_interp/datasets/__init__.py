"""Data sets: one file per benchmark, the bundled benchmark, and the rendering of typography and pictures."""

from __future__ import annotations

from safesteer_interp.datasets.bundled import load_bundled
from safesteer_interp.datasets.figstep import load_figstep
from safesteer_interp.datasets.jsonl import load_jsonl
from safesteer_interp.datasets.mm_safetybench import load_mm_safetybench
from safesteer_interp.datasets.registry import DATASETS, load_requests
from safesteer_interp.datasets.utility import UtilityItem, load_utility, score_utility

__all__ = [
    "DATASETS",
    "UtilityItem",
    "load_bundled",
    "load_figstep",
    "load_jsonl",
    "load_mm_safetybench",
    "load_requests",
    "load_utility",
    "score_utility",
]
