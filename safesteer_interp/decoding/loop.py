"""How answers are written: many at once, each at its own step, all by one forward a token.

A `Stream` holds answers whose prompts have been read. A guided step reads the K candidates of every row in one forward, which doubles
as the forward of the token that is chosen; a plain step draws a token and reads it. Rows leave when their answer ends, and rows of
another stream may join, so that a batch stays full until nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from safesteer_interp.decoding.cache import joinable
from safesteer_interp.decoding.candidates import check_maskable, chosen_states, keep_candidate, score_candidates, states_at
from safesteer_interp.decoding.policies import Candidates, Policy, sites_of
from safesteer_interp.decoding.prefix import Prefix, advance, filled_up
from safesteer_interp.models.head import output_logits
from safesteer_interp.models.layout import Layout
from safesteer_interp.sites import Site
from safesteer_interp.tracing.sampling import draw
from safesteer_interp.types import Logits, States

Candidate = Float[Tensor, "batch k d"]
"""States of the K candidates of every row."""


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
    """The answer without special tokens; `generate` fills it in."""


@dataclass
class Row:
    """One answer being written."""

    answer: Decoded
    uniform: list[float]
    """One random number per step, in [0, 1)."""
    ask: int = 0
    """Place among all answers that are wanted."""
    place: int = 0
    """Place among those whose prompts were read together."""
    way: int = 0
    widths: tuple[int, ...] = ()
    """Tokens of the padded prompt, of each branch."""
    guided: bool = False


@dataclass
class Branch:
    """One reading of every prompt: what has been read so far, and the state [batch, d] the next token is predicted from."""

    prefix: Prefix
    states: States


def _first(rows: Sequence[Row], logits: Sequence[Logits]) -> Logits:
    return logits[0]


def _unedited(branch: int, rows: Sequence[Row], steps: Sequence[int], width: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Terms:
    """What holds for all answers that are written together."""

    limit: int
    """Most tokens of an answer."""
    end_ids: frozenset[int]
    temperature: float = 1.0
    """Of ordinary sampling; 0 is greedy."""
    explain: bool = False
    """Record every guided step."""
    combine: Callable[[Sequence[Row], Sequence[Logits]], Logits] = _first
    """One distribution per row from those of its branches."""
    acting: Callable[[int, Sequence[Row], Sequence[int], int], AbstractContextManager[None]] = _unedited
    """(branch, rows, step of each, tokens of each) -> what is open while a forward after the prompt's runs: edits."""
    layout: Layout | None = None
    """Where sites are, for scorers that read others than the final norm."""


@dataclass
class Stream:
    """Answers being written together: one branch, or two where the logits of two readings are contrasted."""

    model: PreTrainedModel
    terms: Terms
    branches: list[Branch]
    rows: list[Row]

    def begin(self, policy: Policy) -> list[Row]:
        """The policy's opening and its guided steps, on rows that have no token yet; returns the rows that ended on the way.

        Raises UsageError when the policy guides and the model's attention cannot be masked per candidate.
        """
        opening = policy.begin(self.branches[0].states)
        self.branches[0].states = opening.states
        for row, verdict, guided in zip(self.rows, opening.verdicts, opening.guided.tolist(), strict=True):
            row.answer.verdict, row.guided = dict(verdict), guided and policy.steps > 0
        ended: list[Row] = []
        for step in range(policy.steps):
            if not any(row.guided for row in self.rows):
                break
            if not step:
                for branch in self.branches:
                    check_maskable(self.model, branch.prefix.cache)
            ended += self.guided_step(policy)
        return ended

    @torch.no_grad()
    def plain_step(self) -> list[Row]:
        """One token of ordinary sampling for every row; returns the rows that ended."""
        return self.write(self.drawn(self.logits()))

    @torch.no_grad()
    def guided_step(self, policy: Policy) -> list[Row]:
        """One token per row, chosen by the policy (plainly for unguided rows, in slot 0); returns the rows that ended.

        All rows must be at the same step.
        """
        logits = self.logits()
        guided = torch.tensor([row.guided for row in self.rows], device=logits.device)
        log_probs = torch.log_softmax(logits, dim=-1)
        top, ids = log_probs.topk(min(policy.k, log_probs.shape[-1]), dim=-1)
        everywhere = bool(guided.all())
        plain = None if everywhere and not self.terms.explain else self.drawn(logits)
        if not everywhere and plain is not None:
            ids = ids.clone()
            ids[~guided, 0] = plain[~guided]
        step = len(self.rows[0].answer.ids)
        hidden, seen = self._score(ids, step + 1, policy)
        offered = Candidates(
            ids,
            top,
            hidden[0].float(),
            step,
            [row.answer.ids for row in self.rows],
            torch.tensor([row.place for row in self.rows]),
            {site: states.float() for site, states in seen.items()},
            self.terms.temperature,
        )
        choice, scores = policy.choose(offered, self.uniform())
        choice = torch.where(guided, choice.to(ids.device), torch.zeros_like(choice.to(ids.device)))
        for branch in self.branches:
            keep_candidate(branch.prefix, choice, ids.shape[1])
        if plain is not None and self.terms.explain:
            self._record(step, ids, top, scores, choice, plain)
        return self.write(ids.gather(1, choice[:, None]).squeeze(1), [chosen_states(h, choice) for h in hidden])

    def logits(self) -> Logits:
        """Next-token logits [batch, vocab]."""
        return self.terms.combine(self.rows, [output_logits(self.model, branch.states) for branch in self.branches])

    def uniform(self) -> Float[Tensor, " batch"]:
        """Each row's random number for its next token."""
        return torch.tensor([row.uniform[len(row.answer.ids)] for row in self.rows], dtype=torch.float64)

    def drawn(self, logits: Logits) -> Int[Tensor, " batch"]:
        """The token that ordinary sampling draws for each row."""
        return draw(logits, self.uniform(), self.terms.temperature)

    def write(self, tokens: Int[Tensor, " batch"], read: Sequence[States] | None = None) -> list[Row]:
        """Append one token per row and read it, unless `read` holds the states that reading it gave; returns the rows that ended."""
        going = []
        for place, (row, token) in enumerate(zip(self.rows, tokens.tolist(), strict=True)):
            row.answer.ids.append(token)
            if token not in self.terms.end_ids and len(row.answer.ids) < self.terms.limit:
                going.append(place)
        kept = set(going)
        ended = [row for place, row in enumerate(self.rows) if place not in kept]
        if ended:
            order = filled_up(going, len(self.rows))
            self.keep(order)
            tokens, read = tokens[order], None if read is None else [states[order] for states in read]
        if not self.rows:
            return ended
        for number, branch in enumerate(self.branches):
            branch.states = read[number] if read is not None else self._advance(number, tokens)
        return ended

    def keep(self, order: Int[Tensor, " kept"]) -> None:
        """Only these rows, in this order."""
        self.rows = [self.rows[i] for i in order.tolist()]
        if not self.rows:
            return
        for branch in self.branches:
            branch.prefix.keep_rows(order)
            branch.states = branch.states[order]

    @property
    def joinable(self) -> bool:
        """Whether rows of another stream may join while answers are being written."""
        return all(joinable(branch.prefix.cache) for branch in self.branches)

    def join(self, other: Stream, places: Sequence[int]) -> None:
        """Go on with some rows of another stream beside these; the other must not go on with them."""
        order = torch.tensor(places, dtype=torch.long)
        for branch, theirs in zip(self.branches, other.branches, strict=True):
            branch.prefix.join(theirs.prefix, order)
            branch.states = torch.cat([branch.states, theirs.states[order]])
        self.rows = [*self.rows, *(other.rows[i] for i in places)]

    def _advance(self, number: int, tokens: Int[Tensor, " batch"]) -> States:
        prefix = self.branches[number].prefix
        with self.terms.acting(number, self.rows, [len(row.answer.ids) for row in self.rows], 1):
            states = advance(self.model, prefix, tokens)
        prefix.trim()
        return states

    def _score(self, ids: Int[Tensor, "batch k"], step: int, policy: Policy) -> tuple[list[Candidate], dict[Site, Candidate]]:
        """The candidates' states in every branch, and those at the sites the policy reads in the first."""
        hidden: list[Candidate] = []
        seen: dict[Site, Candidate] = {}
        for number, branch in enumerate(self.branches):
            with (
                self.terms.acting(number, self.rows, [step] * len(self.rows), ids.shape[1]),
                states_at(self.model, self.terms.layout, () if number else sites_of(policy)) as found,
            ):
                hidden.append(score_candidates(self.model, branch.prefix, ids))
            seen |= found
        return hidden, seen

    def _record(self, step: int, ids: Tensor, top: Tensor, scores: Tensor, choice: Tensor, plain: Tensor) -> None:
        columns = (ids, top.exp(), scores, choice, plain)
        for row, record in zip(self.rows, zip(*(c.tolist() for c in columns), strict=True), strict=True):
            if row.guided:
                candidates, probabilities, found, chosen, drawn = record
                row.answer.steps.append(StepRecord(step, tuple(candidates), tuple(probabilities), tuple(found), chosen, drawn))


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
) -> list[Decoded]:
    """Answers of every row of a batch whose prompt has been read (`prefix.prefill` gave `prefix` and `states`, i.e. h0).

    `uniform.shape[1]` is the most tokens an answer may have; `temperature` that of ordinary sampling (0 = greedy). With `explain`
    every guided step is recorded. Raises UsageError when the policy guides and the model's attention cannot be masked per candidate.
    """
    terms = Terms(uniform.shape[1], end_ids, temperature, explain)
    rows = [Row(Decoded(), numbers, place, place) for place, numbers in enumerate(uniform.tolist())]
    stream = Stream(model, terms, [Branch(prefix, states)], list(rows))
    stream.begin(policy)
    while stream.rows:
        stream.plain_step()
    return [row.answer for row in rows]
