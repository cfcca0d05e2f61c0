"""The runner, as callers see it: discover, plan, run, verify and sweep analyses. Names are loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safesteer_interp.runner.discovery import discover
    from safesteer_interp.runner.execute import Renderer, plan, run
    from safesteer_interp.runner.results import AnalysisResult, RunReport
    from safesteer_interp.runner.schedule import PlanReport
    from safesteer_interp.runner.session import Session, Settings
    from safesteer_interp.runner.sweeping import SweepReport, sweep
    from safesteer_interp.runner.verification import Moved, VerifyReport, verify

_HOME = {
    "AnalysisResult": "results",
    "Moved": "verification",
    "PlanReport": "schedule",
    "Renderer": "execute",
    "RunReport": "results",
    "Session": "session",
    "Settings": "session",
    "SweepReport": "sweeping",
    "VerifyReport": "verification",
    "discover": "discovery",
    "plan": "execute",
    "run": "execute",
    "sweep": "sweeping",
    "verify": "verification",
}

__all__ = [
    "AnalysisResult",
    "Moved",
    "PlanReport",
    "Renderer",
    "RunReport",
    "Session",
    "Settings",
    "SweepReport",
    "VerifyReport",
    "discover",
    "plan",
    "run",
    "sweep",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
