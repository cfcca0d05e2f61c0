"""Tokens per second of whole answers, prompt pass and auxiliary passes included (arXiv 2605.11716 Table 2)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from safesteer_interp.decoding.prompt_cache import forgetting_prompts
from safesteer_interp.defenses.defense import DEFAULTS, Defense, Settings
from safesteer_interp.errors import InputError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request


def throughput(
    mllm: MLLM,
    defenses: Mapping[str, Defense],
    requests: Sequence[Request],
    *,
    settings: Settings = DEFAULTS,
    repeats: int = 5,
    baseline: str = "none",
) -> pd.DataFrame:
    """One row per defense: tokens_per_second (median over repeats), low and high (fastest and slowest), ratio to the baseline, n.

    Every answer runs to `max_new_tokens`, and that many are counted for each, so that ratios are those of the times per answer: a method
    that puts a short refusal in the place of what it wrote has written it all the same. Methods take turns within each repeat
    and the order rotates, so that a busy minute hits them alike; the ratio is the median of the per-repeat ratios. One untimed round
    comes first. Absolute numbers belong to this machine; the ratio is what can be compared.
    """
    if baseline not in defenses:
        raise InputError(f'throughput is given as a ratio to "{baseline}", which is not among the defenses; add it.')
    if repeats < 1 or not requests:
        raise InputError("throughput needs at least one repeat and one request.")
    timed = replace(settings, stop=False, explain=False)
    tokens, names = settings.sampling.max_new_tokens, list(defenses)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats + 1):
        for turn in range(len(names)):
            name = names[(repeat + turn) % len(names)]
            _wait(mllm)
            started = time.perf_counter()
            with forgetting_prompts(mllm):
                defenses[name].respond(mllm, requests, timed)
            _wait(mllm)
            seconds = time.perf_counter() - started
            if repeat:
                speeds[name].append(tokens * len(requests) / seconds)
    rows = []
    for name, measured in speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(measured, speeds[baseline], strict=True)]
        rows.append(
            {
                "defense": name,
                "tokens_per_second": statistics.median(measured),
                "low": min(measured),
                "high": max(measured),
                "ratio": statistics.median(ratios),
                "ratio_low": min(ratios),
                "ratio_high": max(ratios),
                "n": len(measured),
                "requests": len(requests),
                "tokens": tokens,
            }
        )
    return pd.DataFrame(rows)


def _wait(mllm: MLLM) -> None:
    """Kernels on a GPU run asynchronously: wait for them, or the clock lies."""
    if mllm.device.type == "cuda":
        torch.cuda.synchronize(mllm.device)
