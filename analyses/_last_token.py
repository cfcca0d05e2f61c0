"""The last token of whole answers, where Fig. 8 of the paper ends: its state, beside what became of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from safesteer_interp.requests import Request
from safesteer_interp.runner.context import Context


@dataclass(frozen=True)
class LastTokens:
    """One row per answer."""

    states: Float[np.ndarray, "answers d"]
    """At `final_norm`, of the pass that consumed the answer's last token before the stop token."""
    steps: Int[np.ndarray, " answers"]
    """Which step that was; the first answer token is step 1."""
    refused: Bool[np.ndarray, " answers"]
    pairs: np.ndarray
    ended: Bool[np.ndarray, " answers"]
    """False where the answer was cut at the cap, so that this is only the last token that was looked at."""


def last_tokens(ctx: Context, requests: Sequence[Request], *, new_tokens: int, batch: int) -> LastTokens:
    """Greedy answers (one candidate a step), written to their end; an answer that stops at once has no last token and is left out."""
    from safesteer_interp.decoding.rollouts import RollOut, offered
    from safesteer_interp.models.special_tokens import stop_ids
    from safesteer_interp.refusals import is_refusal

    seen = offered(ctx.answerer, requests, RollOut(k=1, steps=new_tokens, tokens=0), batch_size=batch)
    stops, found = set(stop_ids(ctx.answerer)), list[dict[str, Any]]()
    for prompt in dict.fromkeys(seen.prompts):
        rows = np.flatnonzero(seen.prompts == prompt)
        rows = rows[np.argsort(seen.steps[rows])]
        ended = int(seen.tokens[rows[-1]]) in stops
        said = rows[:-1] if ended else rows
        if not len(said):
            continue
        text = ctx.answerer.tokenizer.decode(seen.tokens[said], skip_special_tokens=True)
        found.append({"row": said[-1], "refused": is_refusal(text), "ended": ended})
    places = np.array([each["row"] for each in found], dtype=int)
    return LastTokens(
        seen.states[places],
        seen.steps[places] + 1,
        np.array([each["refused"] for each in found], dtype=bool),
        seen.pairs[places],
        np.array([each["ended"] for each in found], dtype=bool),
    )
