"""The decoding loop: prompt pass, guided steps (one forward each), then ordinary sampling; batched, with finished rows dropped.

A guided step's forward over K candidates doubles as the next step's forward, so N tokens cost the prompt pass plus N forwards at
most. Rows that are not guided ride along: their own sampled token takes slot 0 and is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from safesteer_interp.decoding.candidates import check_maskable, chosen_states, keep_candidate, score_candidates
from safesteer_interp.decoding.policies import Candidates, Opening, Policy
from safesteer_interp.decoding.prefix import Prefix, advance
from safesteer_interp.models.head import output_logits
from safesteer_interp.tracing.sampling import draw
from safesteer_interp.types import States


@dataclass(frozen=True)
class StepRecord:
    """One guided step of one answer, for `--explain` and the case study."""

    step: int
    candidates: tuple[int, ...]
    """K token ids, most probable first."""
    probabilities: tuple[float, ...]
    """The model's next-token probabilities of the candidates (full vocabulary, temperature 1)."""
    scores: tuple[float, ...]
    choice: int
    """Index into `candidates` of the token taken."""
    plain: int
    """The token that plain sampling would have drawn here with the same random number."""


@dataclass
class Decoded:
    """One answer: its tokens, what the policy decided about the prompt, and the guided steps when asked for."""

    ids: list[int] = field(default_factory=list)
    """Generated token ids, cut after the end-of-sequence token (kept)."""
    verdict: dict[str, float | bool] = field(default_factory=dict)
    steps: list[StepRecord] = field(default_factory=list)
    text: str = ""
    """The answer without special tokens, as `generate` returns it; the loop itself knows no words."""


Watch = Callable[[int, Int[Tensor, "batch chunk"], Int[Tensor, " rows"]], None]
"""Called before every forward after the prompt with (step, positions in the padded sequence, rows still alive)."""


@dataclass
class Stream:
    """A batch of answers being written: what has been read, which rows are still going, and what each has said."""

    model: PreTrainedModel
    prefix: Prefix
    rows: Int[Tensor, " alive"]
    """Indices into `answers` of the rows still being written, in batch order."""
    answers: list[Decoded]
    uniform: Float[Tensor, "batch steps"]
    """One random number per original row and step, in [0, 1)."""
    end_ids: frozenset[int]
    temperature: float
    watch: Watch | None = None

    def emit(self, tokens: Int[Tensor, " alive"]) -> Int[Tensor, " going"]:
        """Append one token per alive row; returns the positions (in the current batch) of rows that go on."""
        going = []
        for place, (row, token) in enumerate(zip(self.rows.tolist(), tokens.tolist(), strict=True)):
            self.answers[row].ids.append(token)
            if token not in self.end_ids:
                going.append(place)
        return torch.tensor(going, dtype=torch.long)

    def keep(self, going: Int[Tensor, " going"]) -> None:
        """Drop finished rows from the cache."""
        if len(going) < len(self.rows):
            self.prefix.keep_rows(going)
            self.rows = self.rows[going]

    def announce(self, step: int, width: int) -> None:
        """Tell the edits where the coming forward stands: its step and its absolute positions."""
        if self.watch is not None:
            position = self.prefix.mask.shape[1]
            self.watch(step, torch.full((len(self.rows), width), position, dtype=torch.long), self.rows)

    def plain(self, logits: Float[Tensor, "alive vocab"], step: int) -> Int[Tensor, " alive"]:
        """The token ordinary sampling draws for each alive row."""
        return draw(logits, self.uniform[self.rows, step], self.temperature)


def decode(
    model: PreTrainedModel,
    prefix: Prefix,
    states: States,
    policy: Policy,
    uniform: Float[Tensor, "batch steps"],
    end_ids: frozenset[int],
    *,
    temperature: float = 1.0,
    explain: bool = False,
    watch: Watch | None = None,
) -> list[Decoded]:
    """Answers of every row of a batch whose prompt has been read (`prefix.prefill` gave `prefix` and `states`, i.e. h0).

    `uniform.shape[1]` is the most tokens an answer may have; `temperature` that of ordinary sampling (0 = greedy). With `explain`
    every guided step is recorded. Raises UsageError when the policy guides and the model's attention cannot be masked per candidate.
    """
    limit = uniform.shape[1]
    opening = policy.begin(states)
    answers = [Decoded(verdict=dict(verdict)) for verdict in opening.verdicts]
    stream = Stream(model, prefix, torch.arange(len(answers)), answers, uniform, end_ids, temperature, watch)
    if policy.steps and bool(opening.guided.any()):
        check_maskable(model, prefix.cache)
    logits = output_logits(model, opening.states)
    for step in range(limit):
        guided = opening.guided.cpu()[stream.rows]
        if step < policy.steps and bool(guided.any()):
            tokens, hidden = _guided_step(stream, policy, opening, logits, step, explain)
        else:
            tokens, hidden = stream.plain(logits, step), None
        going = stream.emit(tokens)
        if step + 1 == limit or not len(going):
            break
        stream.keep(going)
        going = going.to(tokens.device)
        if hidden is None:
            stream.announce(step + 1, 1)
            hidden = advance(model, prefix, tokens[going])
        else:
            hidden = hidden[going]
        logits = output_logits(model, hidden)
    return answers


def _guided_step(
    stream: Stream, policy: Policy, opening: Opening, logits: Float[Tensor, "alive vocab"], step: int, explain: bool
) -> tuple[Int[Tensor, " alive"], States]:
    """Choose one token per row by the policy (plainly for unguided rows); returns tokens and their states [alive, d]."""
    guided = opening.guided.to(logits.device)[stream.rows.to(logits.device)]
    log_probs = torch.log_softmax(logits, dim=-1)
    k = min(policy.k, log_probs.shape[-1])
    top, ids = log_probs.topk(k, dim=-1)
    everywhere = bool(guided.all())
    plain = None if everywhere and not explain else stream.plain(logits, step)
    if not everywhere and plain is not None:
        ids = ids.clone()
        ids[~guided, 0] = plain[~guided]
    stream.announce(step + 1, k)
    hidden = score_candidates(stream.model, stream.prefix, ids)
    emitted = [stream.answers[row].ids for row in stream.rows.tolist()]
    choice, scores = policy.choose(Candidates(ids, top, hidden.float(), step, emitted, stream.rows), stream.uniform[stream.rows, step])
    choice = torch.where(guided, choice.to(ids.device), torch.zeros_like(choice.to(ids.device)))
    keep_candidate(stream.prefix, choice, k)
    tokens = ids.gather(1, choice[:, None]).squeeze(1)
    if explain and plain is not None:
        columns = (guided, ids, top.exp(), scores, choice, plain)
        for row, (on, *record) in zip(stream.rows.tolist(), zip(*(c.tolist() for c in columns), strict=True), strict=True):
            if on:
                candidates, probabilities, found, chosen, drawn = record
                stream.answers[row].steps.append(StepRecord(step, tuple(candidates), tuple(probabilities), tuple(found), chosen, drawn))
    return tokens, chosen_states(hidden, choice)
