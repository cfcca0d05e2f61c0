"""Data sets: one file per benchmark, the bundled benchmark, and the rendering of typography and pictures.

- `DATASETS`: every data set by name
- `load_requests`: the requests of one, by name or from a file of JSON lines
- `load_sound`: the same, with one error for each row that cannot be used
- `load_bundled`: the bundled benchmark: pairs in five forms
- `planted_requests`: requests whose right answers are known, for the planted model
- `load_jsonl`: a file of JSON lines
- `load_figstep`: FigStep
- `load_mm_safetybench`: MM-SafetyBench
- `Dataset`: an entry of the registry
- `UtilityItem`: a harmless task with its answers
- `load_utility`: the tasks
- `score_utility`: whether an answer solves one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.datasets.bundled import load_bundled
    from safesteer_interp.datasets.dataset import Dataset
    from safesteer_interp.datasets.figstep import load_figstep
    from safesteer_interp.datasets.jsonl import load_jsonl
    from safesteer_interp.datasets.mm_safetybench import load_mm_safetybench
    from safesteer_interp.datasets.planted import planted_requests
    from safesteer_interp.datasets.registry import DATASETS, load_requests, load_sound
    from safesteer_interp.datasets.utility import UtilityItem, load_utility, score_utility

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "registry": ("DATASETS", "load_requests", "load_sound"),
        "bundled": ("load_bundled",),
        "planted": ("planted_requests",),
        "jsonl": ("load_jsonl",),
        "figstep": ("load_figstep",),
        "mm_safetybench": ("load_mm_safetybench",),
        "dataset": ("Dataset",),
        "utility": ("UtilityItem", "load_utility", "score_utility"),
    },
)
