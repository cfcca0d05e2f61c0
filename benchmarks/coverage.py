"""Simulated coverage of the 95 % intervals, by estimator and number of clusters; writes the table of docs/statistics.md.

    python benchmarks/coverage.py [--draws 2000] [--write]

Everything is drawn with fixed seeds. `cases()` is what tests/statistics/test_coverage.py holds within 0.93 to 0.97.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from safesteer_interp import statistics as s

CLUSTERS = (8, 12, 24, 48, 104)
PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
Draw = Callable[[np.random.Generator, int], s.Estimate]


@dataclass(frozen=True)
class Case:
    """A way of drawing data of G clusters whose true value is known."""

    name: str
    truth: float
    draw: Draw
    held: bool = True
    """Whether the test holds it to 0.93 to 0.97; the others are stress: skewed, nearly constant, or known to be wide."""
    widest: float = 0.97
    """Coverage that is let pass at 8 and 12 clusters: with so few, a rank statistic takes few values and is wide rather than narrow."""


def ids(groups: int, rows: int) -> np.ndarray:
    return np.repeat(np.arange(groups), rows)


def mean(rng: np.random.Generator, groups: int) -> s.Estimate:
    return s.cluster_mean(rng.normal(size=groups).repeat(4) + rng.normal(size=4 * groups) + 0.3, ids(groups, 4))


def skewed(rng: np.random.Generator, groups: int) -> s.Estimate:
    return s.cluster_mean(rng.exponential(size=groups).repeat(4) + 0.5 * rng.normal(size=4 * groups), ids(groups, 4))


def correlated(rng: np.random.Generator, groups: int, rates: tuple[float, ...], rows: int = 6, shared: float = 0.3) -> list[np.ndarray]:
    """Outcomes [groups * rows] at each rate; the clusters' own rates are beta distributed (intraclass correlation `shared`), the same rank
    in all."""
    rank = rng.random(groups)
    own = [stats.beta.ppf(rank, r * (1 - shared) / shared, (1 - r) * (1 - shared) / shared) for r in rates]
    return [(rng.random((groups, rows)) < p[:, None]).ravel() for p in own]


def rate(share: float) -> Draw:
    return lambda rng, groups: s.cluster_rate(correlated(rng, groups, (share,))[0], ids(groups, 6))


def difference(one: float, two: float, rows: int = 6) -> Draw:
    def draw(rng: np.random.Generator, groups: int) -> s.Estimate:
        first, second = correlated(rng, groups, (one, two), rows)
        return s.cluster_difference(first, second, ids(groups, rows))

    return draw


def area(truth: float, rows: int = 1) -> Draw:
    """`rows` requests of each class in every pair, which share an offset."""

    def draw(rng: np.random.Generator, groups: int) -> s.Estimate:
        offset = 0.6 * rng.normal(size=(groups, 1))
        gap = np.sqrt(2) * stats.norm.ppf(truth)
        noise = 0.8 * rng.normal(size=(2, groups, rows))
        scores = np.concatenate([offset + noise[0] + gap, offset + noise[1]], axis=1).ravel()
        return s.cluster_auroc(scores, np.tile(np.repeat([True, False], rows), groups), ids(groups, 2 * rows))

    return draw


def gap_of_areas(rng: np.random.Generator, groups: int) -> s.Estimate:
    """Two probes' scores of the same requests, equally good, half of their noise in common."""
    labels, shared = np.tile([True, False], groups), rng.normal(size=2 * groups)
    one, two = (1.4 * labels + np.sqrt(0.5) * (shared + rng.normal(size=2 * groups)) for _ in range(2))
    return s.cluster_auroc_difference(one, two, labels, ids(groups, 2))


def bootstrapped(rng: np.random.Generator, groups: int) -> s.Estimate:
    return s.cluster_bootstrap(np.median, rng.normal(size=groups), np.arange(groups), replicates=300)


def cases() -> list[Case]:
    return [
        Case("mean", 0.3, mean),
        Case("mean, exponential clusters", 1.0, skewed, held=False),
        Case("rate 0.5", 0.5, rate(0.5), widest=0.975),
        Case("rate 0.8", 0.8, rate(0.8), widest=0.975),
        Case("rate 0.95", 0.95, rate(0.95), held=False),
        Case("difference of rates, 0.8 and 0.5", 0.3, difference(0.8, 0.5), widest=0.975),
        Case("difference of rates, 0.5 and 0.5, one answer a pair", 0.0, difference(0.5, 0.5, 1), widest=0.98),
        Case("difference of rates, 0.95 and 0.93", 0.02, difference(0.95, 0.93), held=False),
        Case("AUROC 0.65", 0.65, area(0.65), widest=0.99),
        Case("AUROC 0.8", 0.8, area(0.8), widest=0.985),
        Case("AUROC 0.95", 0.95, area(0.95), widest=0.985),
        Case("AUROC 0.8, three requests a class and pair", 0.8, area(0.8, 3)),
        Case("difference of two AUROCs", 0.0, gap_of_areas, held=False),
        Case("median (any statistic: expanded percentiles)", 0.0, bootstrapped, held=False),
    ]


def coverage(case: Case, groups: int, draws: int, seed: int = 0) -> float:
    """Share of intervals that hold the true value; one without bounds does not."""
    hits = 0
    for r in range(draws):
        found = case.draw(np.random.default_rng([seed, groups, r]), groups)
        hits += bool(found.low - 1e-12 <= case.truth <= found.high + 1e-12)
    return hits / draws


def table(draws: int) -> str:
    lines = [f"| estimator | {' | '.join(map(str, CLUSTERS))} |", f"|---|{'---:|' * len(CLUSTERS)}"]
    for case in cases():
        lines.append(f"| {case.name} | {' | '.join(f'{coverage(case, g, draws):.3f}' for g in CLUSTERS)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--draws", type=int, default=2000)
    options.add_argument("--write", action="store_true", help="put the table into docs/statistics.md")
    asked = options.parse_args()
    found = table(asked.draws)
    if asked.write:
        page = PAGE.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        note = f"Nominal 0.95; {asked.draws} draws a cell (Monte Carlo error {np.sqrt(0.95 * 0.05 / asked.draws):.3f})."
        PAGE.write_text(f"{head}{BEGIN}\n{found}\n\n{note}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
