"""The one decoding loop behind all tracers: a prompt pass, then cached steps, with edits and reads at each.

A tracer only says how to run ONE forward (`SteppedTracer.forward`): at every place of `Pass.places`, in that order, hand the state
to `Pass.visit` and put back what it returns. What an edit sees, what a read keeps, when a row has ended and how a token is chosen
is decided here once, so that the tracers can differ in machinery only.

Positions and masks come from `prefix.py`, tokens from `sampling.py`; decoding uses both too.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safesteer_interp.errors import UsageError
from safesteer_interp.models.eyes import class_tokens, rows_of_parts
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.models.special_tokens import stop_ids
from safesteer_interp.models.tower_layers import eye_path
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, ReadKind, Role, Site, forward_order, readable
from safesteer_interp.tracing.eyes import mean_of_pictures, width_of
from safesteer_interp.tracing.prefix import Feed, rope_state
from safesteer_interp.tracing.sampling import draw, uniforms
from safesteer_interp.tracing.tracer import GREEDY, At, Captured, Edit, Sampling
from safesteer_interp.types import Hidden, Logits, Roles, States

MEAN_ROLE = {ReadKind.IMAGE_MEAN: Role.IMAGE, ReadKind.USER_MEAN: Role.USER}


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the module tree that shares every weight and buffer, for engines that rewrite or wrap modules."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


def mean_over(hidden: Hidden, mask: Tensor) -> States:
    """Mean of hidden [batch, sequence, d] over the positions where mask [batch, sequence] is True; NaN where there is none."""
    total = torch.where(mask[..., None], hidden, 0).sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return (total / mask.sum(1, keepdim=True)).to(hidden.dtype)


def reaches_back(roles: Roles, back: int) -> Tensor:
    """[batch] bool: rows with a token `back` places before the last one."""
    if back >= roles.shape[1]:
        return torch.zeros(len(roles), dtype=torch.bool, device=roles.device)
    return roles[:, -1 - back] != Role.PAD


def before_last(hidden: Hidden, roles: Roles, back: int) -> States:
    """State [batch, d] of the token `back` places before the last one; NaN where a prompt is shorter than that."""
    there = reaches_back(roles, back).to(hidden.device)
    return hidden[:, max(-1 - back, -hidden.shape[1])].clone().masked_fill(~there[:, None], torch.nan)


@dataclass
class Pass:
    """One forward: what goes in, which places are visited, and what was kept."""

    inputs: dict[str, Any]
    """Keyword arguments of the model's forward; `logits_to_keep=1` among them."""
    step: int
    positions: Tensor
    roles: Roles
    alive: Tensor
    """[batch] bool: rows whose answer has not ended before this step."""
    sites: tuple[Site, ...] = ()
    reads: tuple[Read, ...] = ()
    edits: tuple[Edit, ...] = ()
    eye_rows: Callable[[int], Tensor] | None = None
    """How the parts of a state of the eyes divide among the rows; None when none is visited."""
    skipped: Callable[[Site], int] = lambda site: 0
    """Tokens at the start of each such part that are no part of the picture."""
    states: dict[tuple[Site, Read], States] = field(default_factory=dict)
    visited: set[Site] = field(default_factory=set)

    @cached_property
    def places(self) -> tuple[Site, ...]:
        """Sites read or edited, in the order a forward pass reaches them; the eyes are open only while a picture goes in."""
        read = [site for site in self.sites if any(readable(site, one) for one in self.reads)]
        edited = chain.from_iterable(edit.sites for edit in self.edits)
        looks = self.inputs.get("pixel_values") is not None
        return tuple(sorted({site for site in (*read, *edited) if looks or not site.in_eyes}, key=forward_order))

    @property
    def last_prompt(self) -> Tensor:
        """[batch, chunk] bool, True at the last prompt token; prompts are padded left, so that is the last column."""
        last = torch.zeros_like(self.roles, dtype=torch.bool)
        if self.step == 0:
            last[:, -1] = True
        return last

    def visit(self, site: Site, hidden: Hidden) -> Hidden | None:
        """Edit the state at a site, then read it; returns what must be put back, or None when no edit acts there."""
        self.visited.add(site)
        edits = [edit for edit in self.edits if site in edit.sites]
        rows = self.eye_rows(len(hidden)) if site.in_eyes and self.eye_rows is not None else None
        if edits:
            at = At(site, self.step, self.positions, self.roles, self.last_prompt, rows)
            for edit in edits:
                shape, dtype = hidden.shape, hidden.dtype
                hidden = edit.function(hidden, at)
                if hidden.shape != shape or hidden.dtype != dtype:
                    raise UsageError(
                        f'edit "{edit.name}" returned {hidden.dtype} {tuple(hidden.shape)} at {site}; '
                        f"it must keep the state's {dtype} {tuple(shape)}."
                    )
        if site in self.sites:
            for read in (one for one in self.reads if readable(site, one)):
                if rows is None:
                    self.states[site, read] = self._read(read, hidden)
                else:
                    self.states[site, read] = mean_of_pictures(hidden, rows, len(self.roles), self.skipped(site))
        return hidden if edits else None

    def _read(self, read: Read, hidden: Hidden) -> States:
        if read.kind in MEAN_ROLE:
            return mean_over(hidden, self.roles == MEAN_ROLE[read.kind])
        if read.back:
            return before_last(hidden, self.roles, read.back)
        last = hidden[:, -1].clone()  # a slice would hold the whole [batch, sequence, d] storage
        return last if read.kind is ReadKind.LAST_PROMPT else last.masked_fill(~self.alive[:, None], torch.nan)

    def present(self, read: Read) -> Tensor:
        """[batch] bool: rows for which the read exists."""
        if read.kind in MEAN_ROLE:
            return (self.roles == MEAN_ROLE[read.kind]).any(1)
        return self.alive & reaches_back(self.roles, read.back)

    def check(self) -> None:
        """Raises UsageError when a place was never reached: an edit or a read that silently did nothing."""
        missed = [str(site) for site in self.places if site not in self.visited]
        if missed:
            raise UsageError(
                f"the forward pass never reached {', '.join(missed)}; "
                "use sites of the decoder that the layout entry names, or correct the entry."
            )


@dataclass
class _Answers:
    """The answers of one batch as they grow."""

    uniform: Tensor
    """[batch, steps] one random number in [0, 1) per request and token."""
    temperature: float
    stops: frozenset[int]
    pad: int
    tokens: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = [[] for _ in self.uniform]

    @classmethod
    def of(cls, mllm: MLLM, requests: Sequence[Request], sampling: Sampling, steps: int) -> _Answers:
        """Empty answers of at most so many tokens."""
        sampled = sampling.temperature > 0
        keys, seeds = [request.key() for request in requests] if sampled else [], [sampling.seed] * len(requests)
        uniform = uniforms(keys, seeds, steps) if sampled else torch.zeros(len(requests), steps, dtype=torch.float64)
        return cls(uniform, sampling.temperature, stop_ids(mllm), pad_id(mllm))

    @property
    def alive(self) -> list[bool]:
        return [not row or row[-1] not in self.stops for row in self.tokens]

    def extend(self, logits: Logits, step: int) -> Tensor:
        """Choose token `step` (from 1) of each live row; returns the column [batch, 1] that the next pass consumes (pad for ended rows)."""
        column = []
        chosen = draw(logits, self.uniform[:, step - 1], self.temperature).tolist()
        for row, (alive, token) in enumerate(zip(self.alive, chosen, strict=True)):
            if alive:
                self.tokens[row].append(token)
            column.append(token if alive else self.pad)
        return torch.tensor(column)[:, None]


class SteppedTracer(ABC):
    """A tracer over a model in this process. Subclasses set `name` and say how to run one forward."""

    name: str

    def __init__(self, mllm: MLLM) -> None:
        self.mllm = mllm
        self.lock = mllm.lock

    @property
    @abstractmethod
    def model(self) -> PreTrainedModel:
        """The transformers model whose generation helpers prepare the inputs."""

    @abstractmethod
    def forward(self, run: Pass) -> Logits:
        """Run one forward, visiting `run.places` in order; next-token logits [batch, vocab] at the last position."""

    def capture(
        self,
        batch: Encoded,
        sites: Sequence[Site],
        reads: Sequence[Read],
        *,
        sampling: Sampling = GREEDY,
        edits: Sequence[Edit] = (),
        logits: bool = False,
    ) -> Captured:
        """One prompt pass, then cached steps when a `step:k` read or generation asks for them.

        A captured state at an edited site is the state after the edit. Raises UsageError for a site the model does not have
        and for an edit that was never reached.
        """
        steps = {read.step: read for read in reads if read.step is not None}
        last_step = max([sampling.max_new_tokens - 1, *steps], default=0)
        wanted = max([sampling.max_new_tokens, *steps], default=0)
        on = tuple(sorted(set(sites), key=forward_order))
        everywhere = (*on, *chain.from_iterable(edit.sites for edit in edits))
        self.check_sites(everywhere)
        check_edits(edits)
        batch = batch.to(self.model.device)
        width = batch.input_ids.shape[1]
        answers = _Answers.of(self.mllm, batch.requests, sampling, wanted)
        found = Captured(generated=answers.tokens)
        with self.lock, torch.no_grad(), rope_state(self.model):
            feed = Feed(self.model, batch, cached=last_step > 0)
            alive = torch.ones(len(batch.requests), dtype=torch.bool, device=batch.input_ids.device)
            positions = torch.arange(width, device=alive.device).expand(len(batch.requests), -1)
            prompt_reads = tuple(read for read in reads if read.step is None)
            run = Pass(feed.prompt(), 0, positions, batch.roles, alive, on, prompt_reads, tuple(edits))
            if any(site.in_eyes for site in everywhere):
                run.eye_rows, run.skipped = cache(partial(rows_of_parts, self.mllm, batch)), partial(class_tokens, self.mllm)
            scores = self._run(run, found)
            if logits:
                found.logits = scores.float().cpu().clone()
            for step in range(1, wanted + 1):
                column = answers.extend(scores, step).to(alive.device)
                alive = torch.tensor(answers.alive, device=alive.device)
                if step > last_step or not bool(alive.any()):
                    break
                roles = torch.where(alive, int(Role.GENERATED), int(Role.PAD)).to(batch.roles.dtype)[:, None]
                positions = torch.full_like(roles, width + step - 1, dtype=torch.long)
                asked = (steps[step],) if step in steps else ()
                run = Pass(feed.step(column), step, positions, roles, alive, on, asked, tuple(edits))
                scores = self._run(run, found)
        self._fill_missing(found, on, reads, len(batch.requests))
        return found

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Raises UsageError for a layer the model does not have, InputError for a place that its eyes do not have."""
        for site in sites:
            if site.in_eyes:
                eye_path(self.mllm.model, self.mllm.layout, site)
            elif site.layer is not None and site.layer >= self.mllm.n_layers:
                raise UsageError(f'site "{site}" does not exist: the model has layers 0-{self.mllm.n_layers - 1}.')

    def _run(self, run: Pass, found: Captured) -> Logits:
        scores = self.forward(run)
        run.check()
        for key, states in run.states.items():
            found.states[key] = states.cpu()
        for read in run.reads:
            found.present[read] = run.present(read).cpu()
        return scores

    def _fill_missing(self, found: Captured, sites: Sequence[Site], reads: Sequence[Read], rows: int) -> None:
        """Steps that no row reached: NaN rows, marked absent."""
        for read in reads:
            if read not in found.present:
                found.present[read] = torch.zeros(rows, dtype=torch.bool)
            for site in sites:
                if (site, read) not in found.states and readable(site, read):
                    found.states[site, read] = torch.full((rows, width_of(self.mllm, site)), torch.nan, dtype=self.mllm.dtype)


def check_edits(edits: Sequence[Edit], *, eyes: bool = True) -> None:
    """Raises UsageError for an edit of tokens at a place that holds none, or (without `eyes`) for any edit of the eyes."""
    for edit in edits:
        blind = [site for site in edit.sites if site.in_eyes] if not (edit.eyes and eyes) else []
        if blind:
            raise UsageError(f'edit "{edit.name}" changes tokens, and {blind[0]} holds none; use a site of the decoder, or a patch.')


def pad_id(mllm: MLLM) -> int:
    """What ended rows consume; its value reaches no live row."""
    pad = getattr(mllm.tokenizer, "pad_token_id", None)
    return int(pad) if pad is not None else min(stop_ids(mllm), default=0)
