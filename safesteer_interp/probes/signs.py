"""The sign test, made where guidance chooses: among the candidates of one prompt at one step, does a probe order those after which the
model refuses above those after which it complies?

Comparing refusals of some prompts with compliances of others would test whether the probe tells prompts apart, which it was fitted to
do. Here prompt and step are the same on both sides and each form counts alike. No probe may steer decoding that does not do better than a
coin (0.5). That is all the guard asks: a random direction may do better than a coin, too, where candidates before a refusal differ from
the others in many ways; whether a probe does better than random directions is what the finding decoding_separability claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from safesteer_interp.errors import InputError
from safesteer_interp.probes.offered import Offered
from safesteer_interp.statistics import OUTCOME, Estimate, auroc, stratified_mean

CHANCE, ALPHA = 0.5, 0.05
FEWEST_PAIRS = 6
"""With fewer clusters no sign-flip test can reach 5 %."""


@dataclass(frozen=True)
class SignTest:
    """Result of `sign_test`: shares of (refusing, complying) candidate pairs of one choice that a score orders rightly; a coin: 0.5."""

    share: Estimate
    """Over all steps and forms, each counted alike, with its interval over pairs."""
    steps: Mapping[int, Estimate]
    """The same by step."""
    choices: int
    """Contested choices behind it: one prompt at one step."""

    @property
    def p(self) -> float:
        """Two-sided: how often a coin does as well (the sign of each pair's excess flipped as a whole)."""
        return 1.0 if self.share.p is None else self.share.p

    @property
    def passed(self) -> bool:
        """Does better than a coin (interval and p), and no step is ordered the wrong way; an undecided test does not pass."""
        enough = (self.share.clusters or 0) >= FEWEST_PAIRS
        return bool(enough and self.share.low > CHANCE and self.p < ALPHA and not self.reversed)

    @property
    def reversed(self) -> tuple[int, ...]:
        """Steps whose whole interval lies on the wrong side."""
        return tuple(step for step, share in self.steps.items() if share.high < CHANCE)

    def sentence(self) -> str:
        """What was found, in one sentence."""
        wrong = f"; the wrong way at step {', '.join(map(str, self.reversed))}" if self.reversed else ""
        return (
            f"of the candidates of one prompt at one step it puts those before a refusal above those before a compliance in "
            f"{self.share.format()} of cases (chance 0.5, p = {self.p:.3g}, {self.choices} choices of {self.share.clusters} pairs{wrong})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {
            "share": asdict(self.share),
            "steps": {str(step): asdict(share) for step, share in self.steps.items()},
            "choices": self.choices,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any] | None) -> SignTest | None:
        """The inverse of `to_dict`; None for none, and for the test between prompts that earlier versions made, which says nothing here."""
        if not fields or "share" not in fields:
            return None
        steps = {int(step): Estimate(**share) for step, share in fields["steps"].items()}
        return cls(Estimate(**fields["share"]), steps, fields["choices"])


def preferences(scores: Float[np.ndarray, " n"], offered: Offered) -> pd.DataFrame:
    """One row per contested choice: pair, form, step, and `value`, the share of its (refusing, complying) pairs ordered rightly
    (ties count half: 0.5 is chance). Raises InputError for scores that are not finite."""
    scores = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(scores).all():
        raise InputError("the sign test got scores that are not finite; drop those candidates.")
    rows = []
    for choice in offered.choices():
        labels = offered.refusal[choice]
        if labels.any() and not labels.all():
            first = choice[0]
            value = auroc(scores[choice], labels)
            rows.append({"pair": offered.pairs[first], "form": offered.forms[first], "step": int(offered.steps[first]), "value": value})
    return pd.DataFrame(rows, columns=["pair", "form", "step", "value"])


def sign_test(scores: Float[np.ndarray, " n"], offered: Offered, *, seed: int = 0) -> SignTest | None:
    """The test of scores on candidates of held-out requests; None where fewer than two pairs have a contested choice."""
    found = preferences(scores, offered)
    if found["pair"].nunique() < 2:
        return None
    steps = {int(step): stratified(part, seed=seed) for step, part in found.groupby("step") if part["pair"].nunique() > 1}
    return SignTest(stratified(found, seed=seed), steps, len(found))


def stratified(found: pd.DataFrame, *, seed: int = 0) -> Estimate:
    """The mean of `value` over strata (form and step), each counted alike, with its interval and two-sided p against 0.5 over pairs."""
    strata = found["form"].astype(str) + "\0" + found["step"].astype(str)
    values = found["value"].to_numpy(dtype=np.float64)
    return stratified_mean(values, strata, found["pair"].to_numpy(), against=CHANCE, bounds=OUTCOME, seed=seed)
