"""States whose answer is known, for the tests of probes: requests in pairs, layers of them, and tokens of answers."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import estimator_checks_generator

from safesteer_interp.errors import SafeSteerError
from safesteer_interp.probes.offered import Offered
from safesteer_interp.probes.rows import Rows
from safesteer_interp.probes.tokens import TokenStates

SITES, PAIRS, D = 6, 60, 40


class Layers:
    """Two attacks of 60 pairs at 6 sites; harm appears at site 3 on axis 0, reversed for attack "SD" at the last site."""

    def __init__(self, gap: float = 5.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels = np.tile([False, True], 2 * PAIRS)
        self.pairs = np.tile(np.repeat([f"p{i}" for i in range(PAIRS)], 2), 2)
        self.groups = np.repeat(["CB", "SD"], 2 * PAIRS)
        self.states = 20 + rng.normal(size=(SITES, 4 * PAIRS, D))
        self.states[3:, self.labels, 0] += gap
        reversed_rows = self.labels & (self.groups == "SD")
        self.states[5, reversed_rows, 0] -= 2 * gap

    def rows(self, at: slice = slice(None), **fields: Any) -> Rows:
        """The rows at some sites, each attack a group of its own."""
        return Rows(self.states[at], self.labels, self.pairs, self.groups, **fields)


def planted_states(n: int = 120, d: int = 24, gap: float = 4.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """States whose harm direction is axis 0, on top of a large shared mean as residual streams have."""
    rng = np.random.default_rng(seed)
    harmful = np.arange(n) % 2 == 1
    states = 10 + rng.normal(size=(n, d))
    states[:, 0] += gap * harmful
    return states.astype(np.float32), harmful


def planted_tokens(n: int = 60, d: int = 24, sign: float = 1.0, shift: float | np.ndarray = 0.0, seed: int = 3) -> TokenStates:
    rng = np.random.default_rng(seed)
    refusal = np.arange(n) % 2 == 0
    states = 10 + rng.normal(size=(n, d)) + shift
    states[:, 0] += sign * 4 * refusal
    return TokenStates(states, refusal, 1 + np.arange(n) // (n // 2), np.array([f"p{i // 2}" for i in range(n)]))


def planted_choices(
    pairs: int = 12, steps: int = 2, k: int = 4, d: int = 24, sign: float = 1.0, seed: int = 5, between: float = 0.0
) -> Offered:
    """Candidates of single choices: in each, half of the K lead to a refusal and lie `sign` * 4 further along axis 0; `between` shifts
    whole prompts along it, in favour of those that refuse more."""
    rng = np.random.default_rng(seed)
    rows = pairs * steps * k
    group = np.arange(rows) // k
    refusal = np.arange(rows) % 2 == 0
    states = 10 + rng.normal(size=(rows, d))
    states[:, 0] += sign * 4 * refusal + between * np.repeat(rng.normal(size=pairs * steps), k)
    pair = group // steps
    return Offered(
        states,
        refusal,
        group % steps,
        np.array([f"p{i}/CB" for i in pair]),
        np.array([f"p{i}" for i in pair]),
        np.full(rows, "CB"),
        np.arange(rows) % 7,
        np.log(np.full(rows, 1 / k)),
    )


def failed_checks(estimator: BaseEstimator) -> list[str]:
    """Every check of scikit-learn that fails, by name; those it skips by itself (optional array libraries) do not count."""
    failed = []
    for candidate, check in estimator_checks_generator(estimator):
        try:
            check(candidate)
        except SkipTest:
            continue
        except (AssertionError, TypeError, ValueError, AttributeError, SafeSteerError) as cause:
            failed.append(f"{check}: {cause}")
    return failed
