"""The runner, as callers see it: discover, plan, run, verify and sweep analyses."""

from __future__ import annotations

from safesteer_interp.analysis.discovery import discover
from safesteer_interp.analysis.execute import Renderer, plan, run
from safesteer_interp.analysis.jobs import PlanReport
from safesteer_interp.analysis.results import AnalysisResult, RunReport
from safesteer_interp.analysis.sweep import SweepReport, sweep
from safesteer_interp.analysis.verify import Moved, VerifyReport, verify
from safesteer_interp.analysis.workbench import Settings, Workbench

__all__ = [
    "AnalysisResult",
    "Moved",
    "PlanReport",
    "Renderer",
    "RunReport",
    "Settings",
    "SweepReport",
    "VerifyReport",
    "Workbench",
    "discover",
    "plan",
    "run",
    "sweep",
    "verify",
]
