"""The sign test: does a probe score refusals above compliances on generated tokens, as SafeSteer's re-ranking assumes?

A probe that fails would promote compliance (papers on root defence ship both signs), so no probe may steer decoding before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from safesteer_interp.errors import InputError
from safesteer_interp.statistics import Estimate, cluster_bootstrap, permutation_test


@dataclass(frozen=True)
class SignTest:
    """Result of `sign_test`. Scores are the probe's decision values (log-odds of harmful)."""

    difference: Estimate
    """mean s(refusal) - mean s(compliance), with its interval over prompts."""
    effect: float
    """Cohen's d: the difference in pooled standard deviations."""
    p: float
    """One-sided permutation p-value of the difference being that large by chance."""
    refusals: int
    compliances: int

    @property
    def passed(self) -> bool:
        """True when refusals score higher and the interval excludes 0; an undecided test does not pass."""
        return bool(self.difference.low > 0)

    def sentence(self) -> str:
        """What was found, in one sentence."""
        d = self.difference
        return (
            f"refusal tokens score {d.value:+.2f} [{d.low:+.2f}, {d.high:+.2f}] against compliance tokens "
            f"(effect {self.effect:+.2f} sd, p = {self.p:.3g}, {self.refusals} refusals, {self.compliances} compliances)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        d = self.difference
        return {
            "value": d.value, "low": d.low, "high": d.high, "n": d.n, "clusters": d.clusters, "level": d.level,
            "effect": self.effect, "p": self.p, "refusals": self.refusals, "compliances": self.compliances,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> SignTest:
        """The inverse of `to_dict`."""
        estimate = Estimate(**{name: fields[name] for name in ("value", "low", "high", "n", "clusters", "level")}, kind="statistic")
        return cls(estimate, fields["effect"], fields["p"], fields["refusals"], fields["compliances"])


def sign_test(
    refusal_scores: Float[np.ndarray, " r"],
    compliance_scores: Float[np.ndarray, " c"],
    *,
    refusal_prompts: Any = None,
    compliance_prompts: Any = None,
    replicates: int = 1000,
    seed: int = 0,
) -> SignTest:
    """Compare probe scores of refusal and compliance tokens taken at the same decoding step.

    `*_prompts` give the prompt (pair id) of each score; a prompt may have both. The bootstrap resamples prompts and the
    permutation shuffles labels; without prompts every score is its own cluster.
    Raises InputError with fewer than two of either kind or NaN scores.
    """
    refusal, compliance = (np.asarray(x, dtype=np.float64).ravel() for x in (refusal_scores, compliance_scores))
    if min(len(refusal), len(compliance)) < 2:
        raise InputError(
            f"the sign test needs at least 2 refusal and 2 compliance tokens but got {len(refusal)} and {len(compliance)}; "
            "trace more harmful requests or sample at a higher temperature."
        )
    scores = np.concatenate([refusal, compliance])
    if not np.isfinite(scores).all():
        raise InputError("the sign test got scores that are not finite; drop rows whose read does not exist (answers that ended early).")
    is_refusal = np.repeat([True, False], [len(refusal), len(compliance)])
    prompts = _clusters(refusal_prompts, compliance_prompts, len(refusal), len(compliance))

    def difference(s: np.ndarray, r: np.ndarray) -> float:
        if r.all() or not r.any():
            return float("nan")
        return float(s[r].mean() - s[~r].mean())

    estimate = cluster_bootstrap(difference, (scores, is_refusal), prompts, replicates=replicates, seed=seed)
    pooled = np.sqrt((refusal.var(ddof=1) * (len(refusal) - 1) + compliance.var(ddof=1) * (len(compliance) - 1)) / (len(scores) - 2))
    effect = estimate.value / pooled if pooled > 0 else float(np.sign(estimate.value) * np.inf if estimate.value else 0.0)
    p = permutation_test(difference, scores, is_refusal, prompts, permutations=replicates, seed=seed, alternative="greater")
    return SignTest(estimate, float(effect), p, len(refusal), len(compliance))


def _clusters(refusal_prompts: Any, compliance_prompts: Any, refusals: int, compliances: int) -> np.ndarray:
    if refusal_prompts is None and compliance_prompts is None:
        return np.arange(refusals + compliances)
    if refusal_prompts is None or compliance_prompts is None:
        raise InputError("the sign test needs prompt ids for both refusals and compliances, or for neither.")
    prompts = np.concatenate([np.asarray(refusal_prompts, dtype=str), np.asarray(compliance_prompts, dtype=str)])
    if len(prompts) != refusals + compliances:
        raise InputError(f"the sign test got {len(prompts)} prompt ids for {refusals + compliances} scores; give one per score.")
    return prompts
