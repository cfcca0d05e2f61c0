"""What the model card keeps of an estimate, and the estimates that it makes of rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from safesteer_interp.statistics import Estimate, wilson

Row = dict[str, Any]
KEPT = ("value", "low", "high", "n", "clusters")


def rate(outcomes: Sequence[bool]) -> Row:
    """Share of true outcomes with Wilson's interval."""
    return row(wilson(sum(map(bool, outcomes)), len(outcomes)))


def row(estimate: Estimate) -> Row:
    """What the card keeps of an estimate."""
    return kept(estimate.as_row())


def kept(measure: Mapping[str, Any]) -> Row:
    """The five numbers; what a measure has not (one pair has no interval) is None, since JSON knows no NaN."""
    return {k: None if isinstance(measure[k], float) and math.isnan(measure[k]) else measure[k] for k in KEPT if k in measure}


def difference_of_rates(first: float, n: int, second: float, m: int) -> Row:
    """The difference of two independent rates with Newcombe's interval (from their Wilson intervals; Newcombe 1998, method 10)."""
    a, b = wilson(round(first * n), n), wilson(round(second * m), m)
    value = first - second
    low = value - float(np.hypot(first - a.low, b.high - second))
    high = value + float(np.hypot(a.high - first, second - b.low))
    return {"value": value, "low": low, "high": high, "n": n + m}
