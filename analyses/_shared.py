"""What several analyses share: the two trace specs that all of them read, and the small shapes their tables have in common."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from safesteer_interp.probes.token_spec import TokenSpec
from safesteer_interp.requests import Attack, Split
from safesteer_interp.tracing.spec import TraceSpec

ATTACKS = (Attack.TEXT, Attack.CB, Attack.SD, Attack.TYPO, Attack.SD_TYPO)
ANSWER_TOKENS = 24
"""Greedy tokens per answer: enough for the refusal prefixes, which decide within the first dozen."""
STEPS = 9
"""Decoding steps whose states are kept: SafeSteer looks at steps 0-3 and at 4, 6, 9 and the last (arXiv 2605.11716 Fig. 2, 8)."""
ANSWERS = TokenSpec(steps=STEPS, answer_tokens=ANSWER_TOKENS, temperature=0.0)
"""Where the analyses differ from `SafeSteer.fit`: more steps, of longer, greedy answers."""


@runtime_checkable
class Paired(Protocol):
    """Parameters of an analysis that reads pairs."""

    @property
    def pairs(self) -> int | None:
        """Pairs per split; None: all."""


def fit_spec(p: Paired, **changes: Any) -> TraceSpec:
    """Prompt states of the training pairs: what probes and directions are fitted on."""
    return TraceSpec(**{"attacks": ATTACKS, "split": Split.FIT, "sites": ("all",), "pairs": p.pairs, **changes})


def report_spec(p: Paired, **changes: Any) -> TraceSpec:
    """The same of the test pairs: what every number is reported on."""
    return TraceSpec(**{"attacks": ATTACKS, "split": Split.TEST, "sites": ("all",), "pairs": p.pairs, **changes})


def answers() -> dict[str, Any]:
    """What a spec needs besides when answers matter: a few greedy tokens and the states of the first steps at every site."""
    return ANSWERS.wanted()


def site_label(site: Any) -> str:
    """A site as the x axis of a layer curve wants it: "embed", the layer number, or "final_norm"."""
    return str(site.layer) if site.layer is not None else str(site)


def attacks_in(t: pd.DataFrame, column: str = "attack") -> list[str]:
    """The attacks of a table in the order of the paper, others behind."""
    found = list(dict.fromkeys(t[column].astype(str)))
    known = [str(a) for a in ATTACKS if str(a) in found]
    return known + [a for a in found if a not in known]


def unit(v: np.ndarray) -> np.ndarray:
    """v [..., d] at length 1; a zero vector stays zero."""
    norm = np.linalg.norm(v, axis=-1, keepdims=True)
    return np.asarray(v / np.where(norm > 0, norm, 1.0))


def row(t: pd.DataFrame, **where: Any) -> pd.Series:
    """The one row of a table where all columns equal the given values. Raises KeyError naming them when there is not exactly one."""
    mask = np.ones(len(t), dtype=bool)
    for column, value in where.items():
        mask &= (t[column].astype(str) == str(value)).to_numpy()
    if mask.sum() != 1:
        raise KeyError(f"{int(mask.sum())} rows match {where}; expected one.")
    return t[mask].iloc[0]
