"""Plans the traces: unites what all analyses ask of each request, so that a request runs through the model as rarely as can be.

A demand is what one spec asks of one request (sites, reads, tokens, logits). Demands of one request are united, requests with equal
demands form a group, and a group is one `collect`. A catalogue beside the store remembers what each stored trace holds, so that an
analysis run alone later finds its states in the larger trace of an earlier run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safesteer_interp.files import write_json
from safesteer_interp.sites import ReadKind, parse_reads, parse_sites
from safesteer_interp.tracing.spec import TraceSpec

SMALL = 2**20
"""Bytes of states per request below which demands are always united."""


@dataclass(frozen=True)
class Demand:
    """What is asked of one request. Sites and reads are kept sorted, as text."""

    dataset: str
    sites: tuple[str, ...]
    reads: tuple[str, ...]
    max_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    logits: bool = False

    @classmethod
    def of(cls, spec: TraceSpec, dataset: str, n_layers: int) -> Demand:
        """A spec's demand on a model of so many layers. Raises UsageError for a site or read that does not exist."""
        reads = parse_reads(spec.reads)
        tokens = max([spec.max_new_tokens, *(r.step or 0 for r in reads if r.kind is ReadKind.STEP)])
        sampled = spec.temperature > 0 and tokens > 0
        return cls(
            spec.dataset or dataset,
            tuple(sorted(map(str, parse_sites(spec.sites, n_layers)))),
            tuple(sorted(map(str, reads))),
            tokens,
            spec.temperature if sampled else 0.0,
            spec.seed if sampled else 0,
            spec.logits,
        )

    @property
    def lane(self) -> tuple[str, float, int]:
        """Demands in different lanes cannot share a pass: another data set, or other sampled tokens."""
        return (self.dataset, self.temperature, self.seed)

    def united(self, other: Demand) -> Demand:
        """The smallest demand that covers both; both must share a lane."""
        return replace(
            self,
            sites=tuple(sorted({*self.sites, *other.sites})),
            reads=tuple(sorted({*self.reads, *other.reads})),
            max_new_tokens=max(self.max_new_tokens, other.max_new_tokens),
            logits=self.logits or other.logits,
        )

    def covers(self, other: Demand) -> bool:
        """True when a trace made for this demand answers the other; a prompt pass alone may come from any lane of its data set."""
        same_tokens = self.lane == other.lane or (other.max_new_tokens == 0 and self.dataset == other.dataset)
        return (
            same_tokens
            and set(other.sites) <= set(self.sites)
            and set(other.reads) <= set(self.reads)
            and other.max_new_tokens <= self.max_new_tokens
            and (self.logits or not other.logits)
        )

    def n_bytes(self, width: int) -> int:
        """Bytes that one request's states take in float32."""
        return len(self.sites) * len(self.reads) * width * 4


@dataclass
class Group:
    """One trace to make: requests that share a demand. `requests` maps request id to content key, in order."""

    demand: Demand
    requests: dict[str, str] = field(default_factory=dict)
    trace: Any = field(default=None, compare=False, repr=False)
    """The opened Trace, once it is needed."""

    def record(self) -> dict[str, Any]:
        return {**self.demand.__dict__, "requests": self.requests}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Group:
        rest = dict(record)
        requests = rest.pop("requests")
        rest["sites"], rest["reads"] = tuple(rest["sites"]), tuple(rest["reads"])
        return cls(Demand(**rest), requests)


class Catalogue:
    """What the traces of one model hold: `<store>/catalogue/<model fingerprint>.json`. A damaged file counts as empty."""

    def __init__(self, store: Path, fingerprint: str) -> None:
        self.path = Path(store) / "catalogue" / f"{fingerprint[:32]}.json"
        self.groups: list[Group] = []
        if self.path.is_file():
            try:
                self.groups = [Group.from_record(r) for r in json.loads(self.path.read_text(encoding="utf-8"))]
            except (ValueError, TypeError, KeyError):
                self.groups = []

    def add(self, group: Group) -> None:
        """Remembers a finished trace, and forgets those it makes superfluous."""
        kept = [g for g in self.groups if not (group.demand.covers(g.demand) and g.requests.items() <= group.requests.items())]
        self.groups = [*kept, group]
        write_json(self.path, [g.record() for g in self.groups])

    def answering(self, demand: Demand, current: Mapping[str, str]) -> list[Group]:
        """Stored groups that cover a demand and whose requests are all still what the data set holds (`current`: id -> key).

        A group of which one request has changed would be traced anew as a whole, so it does not count.
        """
        return [g for g in self.groups if g.demand.covers(demand) and g.requests.items() <= current.items()]


def unite(wanted: Iterable[tuple[Demand, Sequence[tuple[str, str]]]], width: int) -> list[Group]:
    """Groups that answer all demands. `wanted` gives (demand, [(request id, key), ...]), `width` is that of the residual stream.

    A trace keeps every site at every read, so uniting "all layers at the prompt" with "one site at 24 steps" stores far more than was
    asked. Demands of one request are united while that costs little (`SMALL` bytes, or twice what was asked); on large models the
    request then runs twice instead of filling the disk.
    """
    demands: dict[tuple[tuple[str, float, int], str], tuple[list[Demand], str]] = {}
    for demand, requests in wanted:
        for request, key in requests:
            known, _ = demands.setdefault((demand.lane, request), ([], key))
            for i, other in enumerate(known):
                both = other.united(demand)
                if both.n_bytes(width) <= max(SMALL, 2 * (other.n_bytes(width) + demand.n_bytes(width))):
                    known[i] = both
                    break
            else:
                known.append(demand)
    groups: dict[Demand, Group] = {}
    for (_, request), (found, key) in demands.items():
        for demand in found:
            groups.setdefault(demand, Group(demand)).requests[request] = key
    return list(groups.values())
