"""Measuring: the tables of an analysis, and the claims that follow from them alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from safesteer_interp.paths import storing_in
from safesteer_interp.runner.analysis import Analysis, as_tables, like_returned
from safesteer_interp.runner.claim_record import claim_records
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.tables import round_trip


def measure(ctx: Context) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Tables of an analysis as they will be read back, and the record of the claims computed from them."""
    with storing_in(ctx.session.settings.store):
        measured = as_tables(ctx.analysis.table(ctx, ctx.p))
    tables = {name: round_trip(t) for name, t in measured.items()}
    return tables, claims_of(ctx.analysis, ctx.p, tables, model=ctx.model_name, dataset=ctx.dataset, known_answer=ctx.known_answer)


def claims_of(
    analysis: Analysis, p: Any, tables: Mapping[str, pd.DataFrame], *, model: str, dataset: str, known_answer: bool
) -> dict[str, Any]:
    """What claims.json holds, from the tables alone."""
    claims = analysis.claims(like_returned(tables), p)
    return claim_records(claims, model=model, dataset=dataset, scope=scope_of(model, known_answer))


def scope_of(model: str, known_answer: bool) -> str:
    """The sentence that limits every claim to what it was measured on."""
    if known_answer:
        return "Known-answer fixture with a planted harm direction: proves the machinery, not a finding."
    if model.partition(":")[0] == "mini":
        return f"Measured on {model}, the embedded model of 142M parameters; says nothing about larger models until run on them."
    return f"Measured on {model}; says nothing about other models until run on them."
