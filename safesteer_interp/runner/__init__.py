"""The runner, as callers see it: discover, plan, run, verify and sweep analyses.

- `discover`: the analyses there are
- `plan`: what running them would trace
- `run`: runs them
- `Renderer`: draws a finding's folder
- `AnalysisResult`: what one finding came to
- `RunReport`: what all did
- `PlanReport`: a plan
- `Session`: a model with its traces and data
- `RunSettings`: how it is made
- `trace_share`: one share of its traces, for several machines
- `sweep`: one analysis over a grid of parameters
- `plan_sweep`: what that would trace
- `SweepReport`: its table
- `verify`: recomputes findings and compares
- `VerifyReport`: what it found
- `Moved`: a number that moved
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.runner.attempt import Renderer
    from safesteer_interp.runner.discovery import discover
    from safesteer_interp.runner.execute import plan, run
    from safesteer_interp.runner.results import AnalysisResult, RunReport
    from safesteer_interp.runner.schedule import PlanReport
    from safesteer_interp.runner.session import RunSettings, Session
    from safesteer_interp.runner.sharing import trace_share
    from safesteer_interp.runner.sweeping import SweepReport, plan_sweep, sweep
    from safesteer_interp.runner.verification import Moved, VerifyReport, verify

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attempt": ("Renderer",),
        "discovery": ("discover",),
        "execute": ("plan", "run"),
        "results": ("AnalysisResult", "RunReport"),
        "schedule": ("PlanReport",),
        "session": ("Session", "RunSettings"),
        "sharing": ("trace_share",),
        "sweeping": ("sweep", "plan_sweep", "SweepReport"),
        "verification": ("verify", "VerifyReport", "Moved"),
    },
)
