"""`generate`: answers to any number of requests, under policies, edits and contrasts, in batches that stay full.

Prompts are read and guided steps made in full batches of like length; the rest of an answer is written in a stream whose finished rows
are replaced at once by rows whose prompts have been read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from safesteer_interp.decoding.editing import Editing
from safesteer_interp.decoding.late import can_reread, reread
from safesteer_interp.decoding.loop import Branch, Decoded, Row, Stream, Terms
from safesteer_interp.decoding.pace import Pace
from safesteer_interp.decoding.policies import PLAIN, Policy, check_budget
from safesteer_interp.decoding.prefix import prefill
from safesteer_interp.decoding.prompt_cache import distinct, read_prompts, spread
from safesteer_interp.decoding.sharing import Ask, Mixed, Way, batches_of, ways_of
from safesteer_interp.errors import UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.served import ServedMLLM
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.requests import Attack, Request
from safesteer_interp.tracing.sampling import uniforms
from safesteer_interp.tracing.tracer import Edit, Sampling
from safesteer_interp.types import Logits

DEFAULT_SAMPLING = Sampling(max_new_tokens=128, temperature=1.0)
"""The paper's: temperature 1.0, at most 128 new tokens (arXiv 2605.11716 section 5.1)."""
Progress = Callable[[int, int], None]
"""Told (answers done, answers in all) whenever answers have been finished."""


def generate(
    mllm: MLLM,
    requests: Sequence[Request | str],
    policy: Policy = PLAIN,
    sampling: Sampling = DEFAULT_SAMPLING,
    *,
    edits: Sequence[Edit] = (),
    batch_size: int = 32,
    explain: bool = False,
    stop: bool = True,
    progress: Progress | None = None,
) -> list[Decoded]:
    """One answer per request, in order; `answer.text` is what it says. A plain string is a request without an image.

    Requests share batches; each has its own random numbers, so that the batch does not change its sample (up to the rounding that
    padding causes, 1e-5 relative in float32). `stop=False` ignores end-of-sequence tokens. Edits act on prompt and answer tokens as
    `At` says; rows come and go, so an edit must not carry one vector per row.
    Raises UsageError when more steps are guided than tokens generated, or when the model cannot be guided.
    """
    own = tuple(edits)
    asks = [Ask(_request(request, place), sampling.seed, policy, own) for place, request in enumerate(requests)]
    found: dict[int, Decoded] = {}
    for places, answers in answer_asks(mllm, asks, sampling, batch_size=batch_size, explain=explain, stop=stop):
        found.update(zip(places, answers, strict=True))
        if progress is not None:
            progress(len(found), len(requests))
    return [found[i] for i in range(len(requests))]


def _request(request: Request | str, place: int) -> Request:
    return Request(id=f"text-{place}", text=request, harmful=False, attack=Attack.NONE) if isinstance(request, str) else request


def answer_asks(
    mllm: MLLM,
    asks: Sequence[Ask],
    sampling: Sampling,
    *,
    batch_size: int = 32,
    explain: bool = False,
    stop: bool = True,
    pace: Pace | None = None,
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Places and answers of the asks that have been finished, again and again until all are; the sampling's own seed is not used.

    Asks share batches, whatever their policies and edits; a request that is asked several times is read once per batch.
    `pace` (a new one) is told of every part of the work, for whoever wants to know what the rest takes.
    Raises as `generate` does.
    """
    if sampling.max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {sampling.max_new_tokens}; an answer needs at least 1 token.")
    if batch_size < 1:
        raise UsageError(f"batch_size is {batch_size}; it must be at least 1.")
    if isinstance(mllm, ServedMLLM):
        yield from _served(mllm, asks, sampling, batch_size)
        return
    for policy in {id(ask.policy): ask.policy for ask in asks}.values():
        if policy.steps:
            check_budget(policy.k, policy.steps, sampling.max_new_tokens, mllm)
    ends = stop_ids(mllm) if stop else frozenset[int]()
    answering = _Answering(mllm, asks, sampling, ends, explain, pace or Pace(sampling.max_new_tokens))
    for _, batches in groupby(batches_of(asks, batch_size), lambda places: len(asks[places[0]].prompts)):
        for ended in answering.run(list(batches), batch_size):
            for row in ended:
                row.answer.text = text_of(mllm, row.answer)
            yield [row.ask for row in ended], [row.answer for row in ended]


def _served(mllm: ServedMLLM, asks: Sequence[Ask], sampling: Sampling, size: int) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Answers of a server, a batch at a time. Raises UsageError for an ask that needs states or logits."""
    for ask in asks:
        if ask.policy is not PLAIN or ask.edits or ask.combine is not None or ask.tilt is not None:
            raise UsageError(f"{mllm.name} is behind a server, which gives neither states nor logits; this method needs them.")
    for start in range(0, len(asks), size):
        some = asks[start : start + size]
        temperature, longest = sampling.temperature, sampling.max_new_tokens
        texts = mllm.answer([a.request for a in some], [a.seed for a in some], temperature=temperature, max_tokens=longest)
        yield list(range(start, start + len(some))), [Decoded(mllm.tokenizer(text)["input_ids"], text=text) for text in texts]


class _Answering:
    """The asks of one call: how their prompts are read, and the stream their answers are written in."""

    def __init__(self, mllm: MLLM, asks: Sequence[Ask], sampling: Sampling, ends: frozenset[int], explain: bool, pace: Pace) -> None:
        self.mllm, self.asks, self.limit, self.pace = mllm, asks, sampling.max_new_tokens, pace
        self.ways, self.member = ways_of(asks)
        self.prompts = [_prompts_of(ask, way) for ask, way in zip(asks, self.member.tolist(), strict=True)]
        pace.expect((p for own in self.prompts for p in own), self.member.tolist(), [_guided(ask) for ask in asks])
        self.editing = Editing(mllm, self.ways)
        self.terms = Terms(
            self.limit, ends, sampling.temperature, explain, combine=self._combine, acting=self.editing.writing, layout=mllm.layout
        )

    def run(self, batches: Sequence[list[int]], size: int) -> Iterator[list[Row]]:
        """Rows as their answers end. Whenever there is room in the stream, rows of the next batch join it."""
        waiting = iter(batches)
        stream, ready = self._empty(), self._empty()
        while True:
            while len(stream.rows) < size and (stream.joinable or not stream.rows):
                if not ready.rows:
                    places = next(waiting, None)
                    if places is None:
                        break
                    ready, ended = self._open(places)
                    if ended:
                        self.pace.end(row.way for row in ended)
                        yield ended
                    continue
                if not stream.rows:
                    stream, ready = ready, self._empty()
                    continue
                free = min(size - len(stream.rows), len(ready.rows))
                stream.join(ready, range(len(ready.rows) - free, len(ready.rows)))
                ready.keep(torch.arange(len(ready.rows) - free))
            if not stream.rows:
                return
            with self.pace.steps([row.way for row in stream.rows]):
                ended = stream.plain_step()
            if ended:
                self.pace.end(row.way for row in ended)
                yield ended

    def _empty(self) -> Stream:
        return Stream(self.mllm.model, self.terms, [], [])

    @torch.no_grad()
    def _open(self, places: Sequence[int]) -> tuple[Stream, list[Row]]:
        """The prompts of a batch read and its guided steps made; also the rows that ended already. All asks are of one kind."""
        asks, member = [self.asks[i] for i in places], self.member[list(places)]
        guided = _guided(asks[0])
        with self.pace.reads([prompt for i in places for prompt in self.prompts[i]], guided):
            branches = [self._read([ask.prompts[n] for ask in asks], asks[0], member) for n in range(len(asks[0].prompts))]
        widths = tuple(branch.prefix.mask.shape[1] for branch in branches)
        numbers = uniforms([ask.key or ask.request.key() for ask in asks], [ask.seed for ask in asks], self.limit).tolist()
        rows = [
            Row(Decoded(), own, ask, place, way, widths)
            for place, (own, ask, way) in enumerate(zip(numbers, places, member.tolist(), strict=True))
        ]
        stream = Stream(self.mllm.model, self.terms, branches, rows)
        with self.pace.opens(guided, len(places)):
            return stream, stream.begin(_policy(self.ways, member))

    def _read(self, requests: Sequence[Request], like: Ask, member: Int[Tensor, " asks"]) -> Branch:
        """The prompt pass: each different prompt once, one row per ask. All asks are of the kind of `like`."""
        if like.late or not like.early:
            asked, rows = distinct(requests)
            batch = self.mllm.encode(asked).to(self.mllm.device)
            prefix, states = read_prompts(self.mllm, batch)
            if not like.early:  # edits of the final norm leave the cache alone: only the last state is edited
                return Branch(prefix, self.editing.last_prompt(spread(prefix, states, rows), batch, rows, member))
            if can_reread(self.mllm, prefix):
                spread(prefix, states, rows)
                return Branch(prefix, reread(self.mllm, prefix, batch, rows, self.editing, member))
        asked, rows = distinct(requests, member)
        batch = self.mllm.encode(asked).to(self.mllm.device)
        prompts = torch.zeros(len(asked), dtype=torch.long)
        prompts[rows] = member
        with self.editing.reading(batch, prompts):
            prefix, states = prefill(self.mllm.model, batch.inputs)
        return Branch(prefix, spread(prefix, states, rows))

    def _combine(self, rows: Sequence[Row], logits: Sequence[Logits]) -> Logits:
        """One distribution per row: of its only branch, or of its two as its own contrast combines them; then as its own tilt has it."""
        together: dict[int, list[int]] = {}
        for place, row in enumerate(rows):
            together.setdefault(row.way, []).append(place)
        joined = logits[0]
        for number, places in together.items():
            way = self.ways[number]
            if len(logits) == 1 and way.tilt is None:
                continue
            joined = joined.clone() if joined is logits[0] else joined
            if len(logits) > 1:
                assert way.combine is not None, "an ask with two prompts says how their logits are combined"
                joined[places] = way.combine(logits[0][places], logits[1][places])
            if way.tilt is not None:
                joined[places] = way.tilt(joined[places], [len(rows[place].answer.ids) for place in places])
        return joined


def _guided(ask: Ask) -> tuple[int, int]:
    """Candidates and guided steps."""
    return (ask.policy.k, ask.policy.steps) if ask.policy.steps else (0, 0)


def _prompts_of(ask: Ask, way: int) -> list[tuple[str, int]]:
    """What has to be read for an ask: prompts that are edited while they are read are one way's alone."""
    return [(request.key(), way if ask.early and not ask.late else -1) for request in ask.prompts]


def _policy(ways: Sequence[Way], member: Int[Tensor, " asks"]) -> Policy:
    """The policy of a batch: the only one, or each row's own."""
    present, own = member.unique(return_inverse=True)
    policies = [ways[way].policy for way in present.tolist()]
    return policies[0] if len(policies) == 1 else Mixed(policies, own)


def text_of(mllm: MLLM, decoded: Decoded) -> str:
    """The answer as text, without special tokens."""
    tokenizer: Any = mllm.tokenizer
    return str(tokenizer.decode(decoded.ids, skip_special_tokens=True)).strip()
