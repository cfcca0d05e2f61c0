"""Estimate: a number with its interval (or its spread), its n, and the p of the null value it was tested against."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["interval", "mean", "rate", "auroc", "statistic", "spread"]
"""How bounds and p were made, see docs/statistics.md. "spread": the bounds say how draws, machines or vectors differ from each other, not
how well the value is known, so they are never called a 95 % interval; "interval": bounds given by hand."""
Against = float | tuple[float, float]
COLUMNS = ("value", "low", "high", "n", "clusters", "p", "against", "against_to", "kind", "level")
"""Columns of a table that belong to its estimates (`Estimate.as_row`); the last four are there where they say something."""
ENOUGH_DRAWS = 39
"""Draws from which the central 95 % of one draw more can be told: of fewer, the next lies beyond them all in more than 2.5 %."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `low` and `high` are NaN where the data cannot say (fewer than two clusters, equal values)."""

    value: float
    low: float
    high: float
    n: int
    """Rows the number was computed from."""
    clusters: int | None = None
    """Independent units among them (pairs); None where rows are independent."""
    level: float = 0.95
    """Share that the interval covers; of a spread: the central share of the draws that lies between the bounds (1: all of them)."""
    p: float | None = None
    """Two-sided p of the value being `against`; None where that was not tested."""
    against: Against | None = None
    """The null value of `p`: the edge of what is claimed. (low, high): the p of the nearer edge, for claims of lying within."""
    kind: Kind = "interval"

    @property
    def is_spread(self) -> bool:
        return self.kind == "spread"

    def scaled(self, by: float) -> Estimate:
        """The same in another unit: value, bounds and null value times `by`; p stays."""
        low, high = sorted((self.low * by, self.high * by))
        against = self.against
        if isinstance(against, tuple):
            against = (min(against[0] * by, against[1] * by), max(against[0] * by, against[1] * by))
        elif against is not None:
            against *= by
        return replace(self, value=self.value * by, low=low, high=high, against=against)

    def format(self, digits: int = 2) -> str:
        """'0.91 [0.88, 0.94]', or '0.91 [n/a]' without bounds."""
        if math.isnan(self.low) or math.isnan(self.high):
            return f"{self.value:.{digits}f} [n/a]"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def __str__(self) -> str:
        if self.is_spread:
            share = "range" if self.level == 1 else f"central {100 * self.level:g} %"
            return f"{self.format()} ({share} of {self.clusters or self.n} draws)"
        units = "" if self.clusters is None else f", {self.clusters} clusters"
        return f"{self.format()} (n = {self.n}{units})"

    @classmethod
    def of_draws(cls, draws: ArrayLike, level: float = 0.95) -> Estimate:
        """The mean of some draws (directions, shuffles, vectors) with the central `level` of them: a spread. `level=1` gives the range.

        The bounds are draws themselves, so far out that one draw more lies beyond either in (1 - level) / 2 of cases at the most: of 39
        the least and the largest, of fewer NaN (at 0.95). NaN draws are left out of the bounds; n and clusters are the number of draws.
        """
        x = np.asarray(draws, dtype=float)
        return cls(float(x.mean()), *_of_one_more(x, level), len(x), len(x), level, kind="spread")

    def as_row(self) -> dict[str, Any]:
        """The columns of a tidy table: value, low, high, n, clusters, p, against, kind; `against_to` for a band, `level` unless 0.95."""
        against, to = self.against if isinstance(self.against, tuple) else (self.against, None)
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "clusters": self.n if self.clusters is None else self.clusters,
            "p": math.nan if self.p is None else self.p,
            "against": math.nan if against is None else against,
            **({} if to is None else {"against_to": to}),
            "kind": self.kind,
            **({} if self.level == 0.95 else {"level": self.level}),
        }


def _of_one_more(draws: np.ndarray, level: float) -> tuple[float, float]:
    """Order statistics that one draw more of the same kind lies between with probability `level` or more; NaN where no draw lies that far
    out. The n draws cut the line into n + 1 parts that the next one falls into alike."""
    defined = np.sort(draws[~np.isnan(draws)])
    below = math.floor(round((1 - level) / 2 * (len(defined) + 1), 9)) if level < 1 else min(1, len(defined))
    return (float(defined[below - 1]), float(defined[-below])) if below else (math.nan, math.nan)


def percentile(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of the replicates, undefined ones left out; NaN bounds when none is defined."""
    defined = draws[~np.isnan(draws)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def nearer(against: Against, test: Any) -> float:
    """`test(edge)`, the p against one edge; for a band the larger p of its two edges, which is that of the nearer one."""
    return max(float(test(edge)) for edge in (against if isinstance(against, tuple) else (against,)))
