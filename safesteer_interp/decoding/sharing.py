"""Several ways of answering in one batch: each row has its own policy, its own edits and its own contrast.

A step costs about as much for 8 rows as for 24, since the weights are read once either way. An evaluation of few requests under many
defenses therefore fills its batches with rows of several defenses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from safesteer_interp.decoding.policies import PLAIN, Candidates, Opening, Policy, sites_of
from safesteer_interp.requests import Request
from safesteer_interp.sites import Site, SiteKind
from safesteer_interp.tracing.tracer import Edit
from safesteer_interp.types import Logits, States

Combine = Callable[[Logits, Logits], Logits]
"""(next-token logits [n, vocab] of the first reading, of the second) -> those the answer is drawn from."""
Tilt = Callable[[Logits, Sequence[int]], Logits]
"""(next-token logits [n, vocab], tokens that each row has answered) -> those the answer is drawn from."""


@dataclass(frozen=True)
class Ask:
    """One answer that is wanted: a request, the seed of its sample, and how it is to be answered."""

    request: Request
    seed: int = 0
    policy: Policy = PLAIN
    edits: tuple[Edit, ...] = ()
    beside: Request | None = None
    """Read as well, and fed the same answer: a second branch whose logits `combine` joins with the first's."""
    combine: Combine | None = None
    tilt: Tilt | None = None
    """Changes the next-token logits, after `combine`."""
    key: str = ""
    """Content key that the sample's random numbers belong to; empty: the request's own."""

    @property
    def prompts(self) -> tuple[Request, ...]:
        """What is read before the answer: one request a branch."""
        return (self.request,) if self.beside is None else (self.request, self.beside)

    @property
    def early(self) -> bool:
        """Whether an edit acts before the final norm: then the prompt pass is this answer's alone."""
        return any(site.kind is not SiteKind.FINAL_NORM for edit in self.edits for site in edit.sites)

    @property
    def late(self) -> bool:
        """Whether its early edits touch nothing before the last prompt token: then only that token is this answer's alone."""
        return self.early and all(edit.late for edit in self.edits)

    @property
    def kind(self) -> tuple[int, bool, bool, int, int]:
        """Asks of one kind may have their prompts read together: alike, and with equally many candidates and guided steps."""
        return len(self.prompts), self.early, self.late, self.policy.k if self.policy.steps else 0, self.policy.steps


@dataclass(frozen=True)
class Way:
    """A policy, edits, contrast and tilt that several rows share."""

    policy: Policy
    edits: tuple[Edit, ...]
    combine: Combine | None = None
    tilt: Tilt | None = None


def ways_of(asks: Sequence[Ask]) -> tuple[list[Way], Int[Tensor, " asks"]]:
    """The different ways among asks, in order of appearance, and the place of each ask's way among them."""
    place: dict[tuple[int, ...], int] = {}
    ways: list[Way] = []
    member = []
    for ask in asks:
        key = (id(ask.policy), id(ask.combine), id(ask.tilt), *map(id, ask.edits))
        if key not in place:
            place[key] = len(ways)
            ways.append(Way(ask.policy, ask.edits, ask.combine, ask.tilt))
        member.append(place[key])
    return ways, torch.tensor(member, dtype=torch.long)


@dataclass(frozen=True)
class Mixed:
    """The policy of a batch whose rows follow different policies. Those that guide have the same K and number of steps."""

    policies: Sequence[Policy]
    member: Int[Tensor, " batch"]
    """Place of each row's policy."""

    @property
    def k(self) -> int:
        """Candidates a guided step."""
        return max((policy.k for policy in self.policies if policy.steps), default=1)

    @property
    def steps(self) -> int:
        """Guided steps."""
        return max(policy.steps for policy in self.policies)

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every policy's."""
        return tuple(dict.fromkeys(site for policy in self.policies for site in sites_of(policy)))

    def begin(self, states: States) -> Opening:
        """Every policy's opening on its own rows."""
        moved, guided = states.clone(), torch.zeros(len(states), dtype=torch.bool, device=states.device)
        verdicts: list[Mapping[str, float | bool]] = [{} for _ in states]
        for place, policy in enumerate(self.policies):
            rows = self._rows(place, self.member)
            opening = policy.begin(states[rows.to(states.device)])
            moved[rows.to(states.device)] = opening.states
            if policy.steps:
                guided[rows.to(states.device)] = opening.guided.to(guided.device)
            for row, verdict in zip(rows.tolist(), opening.verdicts, strict=True):
                verdicts[row] = verdict
        return Opening(moved, guided, verdicts)

    def choose(self, candidates: Candidates, uniform: Float[Tensor, " batch"]) -> tuple[Int[Tensor, " batch"], Float[Tensor, "batch k"]]:
        """Every guiding policy's choice on its own rows; 0 elsewhere."""
        assert candidates.rows is not None, "the decoding loop says which rows are left"
        choice, scores = torch.zeros_like(candidates.ids[:, 0]), torch.zeros_like(candidates.log_probs)
        for place, policy in enumerate(self.policies):
            rows = self._rows(place, self.member[candidates.rows])
            if not policy.steps or not len(rows):
                continue
            at, part = rows.to(choice.device), candidates.take(rows)
            chosen, found = policy.choose(part, uniform[rows])
            choice[at], scores[at] = chosen.to(choice.device), found.to(scores)
        return choice, scores

    @staticmethod
    def _rows(place: int, member: Int[Tensor, " rows"]) -> Int[Tensor, " found"]:
        return (member == place).nonzero().squeeze(1)


def by_length(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Places of the requests of each batch: those of one form and like length together, so that little is padding."""
    yield from _evenly(sorted(range(len(requests)), key=lambda i: _likeness(requests[i])), batch_size)


def by_answer_length(requests: Sequence[Request], answers: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """As `by_length` where the answers are known: of one form and like length of the answer. Empty answers are left out."""
    order = sorted((i for i in range(len(requests)) if len(answers[i])), key=lambda i: (requests[i].form, len(answers[i])))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _likeness(request: Request) -> tuple[tuple[bool, str], int, str]:
    return request.form, len(request.text), request.id


def batches_of(asks: Sequence[Ask], batch_size: int) -> Iterator[list[int]]:
    """By kind, then way by way, so that batch after batch asks the same requests, whose prompts are then remembered."""
    kinds: dict[tuple[int, bool, bool, int, int], list[int]] = {}
    for place, ask in enumerate(asks):
        kinds.setdefault(ask.kind, []).append(place)
    for _, places in sorted(kinds.items(), key=lambda kind: kind[0][0]):  # asks of as many prompts are written in one stream
        _, member = ways_of([asks[i] for i in places])
        way = dict(zip(places, member.tolist(), strict=True))
        yield from _evenly(sorted(places, key=lambda i: (way[i], _likeness(asks[i].request))), batch_size)


def _evenly(places: list[int], batch_size: int) -> Iterator[list[int]]:
    """Batches of at most `batch_size` and nearly equal size, in order."""
    batches = -(-len(places) // batch_size)
    for k in range(batches):
        yield places[k * len(places) // batches : (k + 1) * len(places) // batches]
