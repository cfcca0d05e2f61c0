"""Known answers of the analyses of causes: on the planted model the place of the cause is found, and verdicts follow when it moves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from safesteer_interp import runner
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.measure import measure
from safesteer_interp.runner.session import Session, Settings

FOLDER = Path(__file__).parents[2] / "analyses"
SMALLER: dict[str, dict[str, Any]] = {
    "patching_text_to_image": {"pairs": 20},
    "attention_routes": {"pairs": 20, "width": 2},
    "readable_and_used": {"pairs": 20, "random_directions": 4},
    "component_attribution": {"pairs": 20, "random_circuits": 3},
}
Measured = Callable[..., tuple[dict[str, pd.DataFrame], dict[str, str]]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Tables and verdicts of an analysis on a variant of the planted model; each is measured once."""
    benches: dict[Any, Session] = {}
    found: dict[Any, Any] = {}

    def run(name: str, **changes: float) -> Any:
        from safesteer_interp.models.planted import build_planted

        key = tuple(sorted(changes.items()))
        if key not in benches:
            settings = Settings(model="planted", store=tmp_path_factory.mktemp("traces"), progress=False)
            benches[key] = Session(settings, loaded_model=build_planted(**changes))
        if (name, key) not in found:
            analysis = runner.discover(FOLDER)[name]
            context = Context(benches[key], analysis, analysis.parameters("quick", SMALLER[name]), tmp_path_factory.mktemp("work"))
            tables, record = measure(context)
            found[name, key] = tables, {c["id"]: c["verdict"] for c in record["claims"]}
        return found[name, key]

    return run


def value(t: pd.DataFrame, **where: Any) -> float:
    for column, wanted in where.items():
        t = t[t[column].astype(str) == str(wanted)]
    assert len(t) == 1, where
    return float(t["value"].iloc[0])
