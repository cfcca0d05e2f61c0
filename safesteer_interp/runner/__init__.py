"""The runner, as callers see it: discover, plan, run, verify and sweep analyses."""

from __future__ import annotations

from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.execute import Renderer, plan, run
from safesteer_interp.runner.results import AnalysisResult, RunReport
from safesteer_interp.runner.schedule import PlanReport
from safesteer_interp.runner.session import Session, Settings
from safesteer_interp.runner.sweep import SweepReport, sweep
from safesteer_interp.runner.verify import Moved, VerifyReport, verify

__all__ = [
    "AnalysisResult",
    "Moved",
    "PlanReport",
    "Renderer",
    "RunReport",
    "Settings",
    "SweepReport",
    "VerifyReport",
    "Session",
    "discover",
    "plan",
    "run",
    "sweep",
    "verify",
]
