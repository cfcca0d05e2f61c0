"""What the findings behind the paper's figures take on a model: prompts to read, answers to write, bytes of traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from safesteer_interp.replication.estimate import GUIDED, STATISTICS, Part, Speed
from safesteer_interp.runner.schedule import Job, PlanReport

SETTINGS = 3
"""SafeSteer as printed, corrected, and calibrated (or untuned), which both findings of answers compare."""


def work(name: str, planned: PlanReport, speed: Speed, profile: str) -> Part:
    """The work of the jobs that are not finished: traces once for all of them, then answers and statistics of each."""
    due = [job for job in planned.jobs if not job.excuse and not job.is_finished()]
    passes = sum(len(group.requests) for group in planned.groups) if due else 0
    traced = sum(len(group.requests) * speed.answer(group.demand.max_new_tokens) for group in planned.groups) if due else 0.0
    written = [answers(job) for job in due]
    seconds = traced + sum(n * speed.answer(tokens) * GUIDED for n, tokens in written) + STATISTICS[profile] * len(due)
    return Part(name, passes=passes, answers=sum(n for n, _ in written), tokens=sum(n * tokens for n, tokens in written), seconds=seconds)


def answers(job: Job) -> tuple[int, int]:
    """Answers that a job writes beside its traces, at most, and the tokens of each; what is stored already is not looked up."""
    p: Any = job.p
    conditions = {"guidance_budget": budgets, "case_study": lambda p: float(SETTINGS)}.get(job.analysis.id)
    if conditions is None:
        return 0, 0
    asked = len(job.session.requests_for(job.specs[-1]))
    return round(asked * conditions(p) * p.seeds), int(p.new_tokens)


def budgets(p: Any) -> float:
    """Conditions of `guidance_budget`, in times all its requests: no defense, the last setting on all, the others and the refusal strings
    on the harmful half, each at every budget."""
    points: Sequence[tuple[int, int]] = list({(p.k, p.steps), *((k, p.steps) for k in p.ks), *((p.k, s) for s in p.step_counts)})
    guided = sum(k > 1 and steps > 0 for k, steps in points)
    return 1 + len(points) + (SETTINGS - 1) * len(points) / 2 + guided / 2
