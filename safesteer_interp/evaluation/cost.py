"""What an answer costs in the model's own units: forwards and tokens read, auxiliary questions and second branches included.

Seconds belong to a machine and to its batches; these counts do not. A forward over a batch counts once for each of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from safesteer_interp.decoding.prefix import decoder
from safesteer_interp.decoding.prompt_cache import forgetting_prompts
from safesteer_interp.defenses.defense import DEFAULTS, Defense, Settings
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request


@dataclass
class Count:
    """Forwards of the text decoder, counted by row, and the tokens they read; padding is left out."""

    forwards: int = 0
    tokens: int = 0

    def add(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A forward pre-hook."""
        read = kwargs.get("inputs_embeds")
        read = kwargs.get("input_ids", args[0] if args else None) if read is None else read
        rows, width = int(read.shape[0]), int(read.shape[1])
        mask = kwargs.get("attention_mask")
        whole = mask is not None and getattr(mask, "ndim", 0) == 2 and mask.shape[-1] == width
        self.forwards += rows
        self.tokens += int(mask.sum()) if mask is not None and whole else rows * width


@contextmanager
def counting(mllm: MLLM) -> Iterator[Count]:
    """While open, every forward of the model's text decoder is counted."""
    count = Count()
    handle = decoder(mllm.model).register_forward_pre_hook(count.add, with_kwargs=True)
    try:
        yield count
    finally:
        handle.remove()


def costs(mllm: MLLM, methods: Mapping[str, Defense], requests: Sequence[Request], *, settings: Settings = DEFAULTS) -> pd.DataFrame:
    """One row per method: forwards, tokens_read and tokens_written per answer (means over the requests, each prompt read anew), n.

    What is written counts as the model wrote it, whatever a review puts in its place. Other models that a method asks (a detector, say)
    are not in it. The first method is what `forwards_ratio` and `tokens_ratio` refer to.
    """
    rows: list[dict[str, Any]] = []
    for name, defense in methods.items():
        with forgetting_prompts(mllm), counting(mllm) as count:
            responses = defense.respond(mllm, requests, settings)
        n, written = len(responses), sum(len(r.ids) if r.written is None else r.written for r in responses)
        found = {"forwards": count.forwards / n, "tokens_read": count.tokens / n, "tokens_written": written / n}
        rows.append({"method": name, **found, "n": n})
    for row in rows:
        # per token written: a method that stops early has not saved anything by itself
        each, first = row["forwards"] / row["tokens_written"], rows[0]["forwards"] / rows[0]["tokens_written"]
        row |= {"forwards_per_token": each, "forwards_ratio": each / first, "tokens_ratio": row["tokens_read"] / rows[0]["tokens_read"]}
    return pd.DataFrame(rows)
