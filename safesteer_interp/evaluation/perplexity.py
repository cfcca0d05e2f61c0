"""Perplexity of answers under the undefended model: what guided decoding writes should still be language to the model itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from safesteer_interp.decoding.prefix import decoder
from safesteer_interp.decoding.prompt_cache import distinct, read_prompts, spread
from safesteer_interp.decoding.sharing import by_answer_length
from safesteer_interp.models.head import output_logits
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request

_POSITIONS = 16  # logits of a 50 000-word vocabulary are held for this many positions at a time


@torch.no_grad()
def answer_perplexities(mllm: MLLM, requests: Sequence[Request], answers: Sequence[Sequence[int]], *, batch_size: int = 16) -> list[float]:
    """exp of the mean negative log-likelihood (nats) per token of each answer given its request; NaN for an empty answer.

    One prompt pass and one pass over the answer's tokens per batch, no edits, temperature 1.
    """
    found = [math.nan] * len(requests)
    for places in by_answer_length(requests, answers, batch_size):
        losses = _losses(mllm, [requests[i] for i in places], [answers[i] for i in places])
        for i, loss in zip(places, losses.tolist(), strict=True):
            found[i] = math.exp(min(loss, 700.0))
    return found


def _losses(mllm: MLLM, requests: list[Request], answers: list[Sequence[int]]) -> Tensor:
    """Mean negative log-likelihood per row [batch], in nats."""
    asked, rows = distinct(requests)
    prefix, state = read_prompts(mllm, mllm.encode(asked).to(mllm.device))
    state = spread(prefix, state, rows)
    width = max(len(answer) for answer in answers)
    ids = torch.zeros(len(answers), width, dtype=torch.long, device=mllm.device)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.tensor(list(answer), device=mllm.device)
        real[row, : len(answer)] = True
    states = state[:, None]
    if width > 1:
        out = decoder(mllm.model)(
            input_ids=ids[:, :-1],
            attention_mask=torch.cat([prefix.mask, real[:, :-1].to(prefix.mask.dtype)], dim=1),
            position_ids=prefix.positions(width - 1) + torch.arange(width - 1, device=mllm.device),
            past_key_values=prefix.cache,
            use_cache=True,
        )
        states = torch.cat([states, out.last_hidden_state], dim=1)
    total = torch.zeros(len(answers), device=mllm.device)
    for start in range(0, width, _POSITIONS):
        part = slice(start, start + _POSITIONS)
        log_probs = torch.log_softmax(output_logits(mllm.model, states[:, part]), dim=-1)
        taken = log_probs.gather(-1, ids[:, part, None]).squeeze(-1)
        total -= torch.where(real[:, part], taken, 0.0).sum(1)
    return (total / real.sum(1)).cpu()
