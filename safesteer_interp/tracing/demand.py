"""What is wanted of which requests, and how wants are united so that a request runs through the model as rarely as can be.

A demand is what one asks of a request: sites, reads, tokens, logits. A want is a demand on some requests, and one want is one trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, ReadKind, Site, forward_order, parse_reads, parse_sites
from safesteer_interp.tracing.spec import TraceSpec

if TYPE_CHECKING:
    from safesteer_interp.tracing.tracer import Edit, Sampling

SMALL = 2**20
"""Bytes of states per request below which demands are always united."""
Stream = tuple[str, float, int, tuple[str, ...]]
SitesLike = str | Iterable[str | Site]
ReadsLike = str | Iterable[str | Read]


@dataclass(frozen=True)
class Demand:
    """What is asked of one request. Sites and reads are text, in the order in which a model meets them."""

    dataset: str
    """Where the requests come from; for grouping and progress only, since an answer may come from any trace of the same request."""
    sites: tuple[str, ...]
    reads: tuple[str, ...]
    max_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0
    logits: bool = False
    edits: tuple[str, ...] = ()
    """Identity of each edit, in the order in which they act."""

    @classmethod
    def of(cls, spec: TraceSpec, dataset: str, n_layers: int, n_vision: int = 0) -> Demand:
        """A spec's demand on a model of so many layers, in its decoder and in its eyes.

        Raises UsageError for a site or read that does not exist.
        """
        sites, reads = parse_sites(spec.sites, n_layers, n_vision), parse_reads(spec.reads)
        return cls.made(sites, reads, spec.max_new_tokens, spec.temperature, spec.seed, logits=spec.logits, dataset=spec.dataset or dataset)

    @classmethod
    def made(
        cls,
        sites: Sequence[Site],
        reads: Sequence[Read],
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        *,
        logits: bool = False,
        edits: Sequence[Edit] = (),
        dataset: str = "",
    ) -> Demand:
        """The demand in its one normal form: a step asks for its tokens, and what does nothing (a greedy run's seed) is left out."""
        tokens = max([max_new_tokens, *(read.step or 0 for read in reads)])
        sampled = temperature > 0 and tokens > 0
        return cls(
            dataset,
            tuple(map(str, sorted(set(sites), key=forward_order))),
            tuple(map(str, sorted(set(reads)))),
            tokens,
            temperature if sampled else 0.0,
            seed if sampled else 0,
            logits,
            tuple("\0".join((edit.name, edit.key, *map(str, edit.sites))) for edit in edits),
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Demand:
        """The inverse of `record`, after JSON."""
        lists = {name: tuple(record[name]) for name in ("sites", "reads", "edits")}
        return cls(**{**record, **lists})

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @property
    def stream(self) -> Stream:
        """Demands of different streams cannot share a pass: another data set, other sampled tokens, or other edits."""
        return (self.dataset, self.temperature, self.seed, self.edits)

    @property
    def steps(self) -> int:
        """Cached decoding passes after the prompt, at most: the last token is chosen and needs a pass only if it is read."""
        return max([self.max_new_tokens - 1, *(Read.parse(read).step or 0 for read in self.reads), 0])

    def united(self, other: Demand) -> Demand:
        """The smallest demand that covers both; both must share a stream."""
        sites = {Site.parse(site) for site in (*self.sites, *other.sites)}
        reads = {Read.parse(read) for read in (*self.reads, *other.reads)}
        return replace(
            self,
            sites=tuple(map(str, sorted(sites, key=forward_order))),
            reads=tuple(map(str, sorted(reads))),
            max_new_tokens=max(self.max_new_tokens, other.max_new_tokens),
            logits=self.logits or other.logits,
        )

    def covers(self, other: Demand) -> bool:
        """True when a trace made for this demand answers the other; a prompt pass alone may come from any stream without other edits."""
        return (
            self.edits == other.edits
            and (other.max_new_tokens == 0 or (self.temperature, self.seed) == (other.temperature, other.seed))
            and set(other.sites) <= set(self.sites)
            and set(other.reads) <= set(self.reads)
            and other.max_new_tokens <= self.max_new_tokens
            and (self.logits or not other.logits)
        )

    def reads_of(self, requests: Iterable[Request]) -> tuple[str, ...]:
        """The reads that some of the requests have: without any picture there are no image tokens to read."""
        pictured = any(request.image is not None for request in requests)
        return tuple(read for read in self.reads if pictured or read != ReadKind.IMAGE_MEAN)

    def n_bytes(self, width: int) -> int:
        """Bytes that one request's states take in float32."""
        return len(self.sites) * len(self.reads) * width * 4


@dataclass(frozen=True)
class Want:
    """A demand on some requests, in order: what one call asks for, and what one trace holds."""

    demand: Demand
    requests: tuple[Request, ...]
    edits: tuple[Edit, ...] = ()
    """The edits whose identities the demand names."""
    sites: tuple[str, ...] = ()
    """The order in which to show the sites; empty: the demand's."""
    reads: tuple[str, ...] = ()
    """The order in which to show the reads; empty: the demand's."""
    contents: tuple[str, ...] = field(default=(), compare=False)
    """`Contents.of` the requests, once the library has looked."""

    @classmethod
    def asked(
        cls,
        requests: Sequence[Request],
        n_layers: int,
        *,
        n_vision: int = 0,
        sites: SitesLike = "all",
        reads: ReadsLike = "last_prompt",
        sampling: Sampling | None = None,
        edits: Sequence[Edit] = (),
        logits: bool = False,
    ) -> Want:
        """What `collect` was called with, parsed once. Raises UsageError for a site or read that means nothing here."""
        at = parse_sites(sites if isinstance(sites, str) else [str(site) for site in sites], n_layers, n_vision)
        positions = parse_reads(reads if isinstance(reads, str) else [str(read) for read in reads])
        drawn = (0, 0.0, 0) if sampling is None else (sampling.max_new_tokens, sampling.temperature, sampling.seed)
        demand = Demand.made(at, positions, *drawn, logits=logits, edits=edits)
        return cls(demand, tuple(requests), tuple(edits), tuple(map(str, at)), tuple(map(str, positions)))

    @property
    def distinct(self) -> dict[str, Request]:
        """The first request of each content, in order."""
        found: dict[str, Request] = {}
        for content, request in zip(self.contents, self.requests, strict=True):
            found.setdefault(content, request)
        return found

    def without(self, request_id: str) -> Want:
        """The want of all requests but one."""
        kept = tuple(request for request in self.requests if request.id != request_id)
        return replace(self, requests=kept, contents=())

    def of(self, contents: Iterable[str]) -> Want:
        """The same demand on those of the requests that have one of these contents, each once."""
        wanted = set(contents)
        kept = {content: request for content, request in self.distinct.items() if content in wanted}
        return replace(self, requests=tuple(kept.values()), contents=tuple(kept))


def unite(wants: Iterable[Want], width: int) -> list[Want]:
    """The wants that answer all of those given (whose contents are known); `width` is that of the residual stream.

    A trace keeps every site at every read, so uniting "all layers at the prompt" with "one site at 24 steps" stores far more than was
    asked. Demands of one request are united while that costs little (`SMALL` bytes, or twice what was asked); on large models the
    request then runs twice instead of filling the disk.
    """
    demands: dict[tuple[Stream, str], tuple[list[Demand], Request]] = {}
    edits: dict[tuple[str, ...], tuple[Edit, ...]] = {}
    for want in wants:
        edits[want.demand.edits] = want.edits
        for content, request in want.distinct.items():
            known, _ = demands.setdefault((want.demand.stream, content), ([], request))
            _add(known, want.demand, width)
    groups: dict[Demand, dict[str, Request]] = {}
    for (_, content), (found, request) in demands.items():
        for demand in found:
            groups.setdefault(demand, {})[content] = request
    return [Want(demand, tuple(group.values()), edits[demand.edits], contents=tuple(group)) for demand, group in groups.items()]


def _add(known: list[Demand], demand: Demand, width: int) -> None:
    """Unite a demand on a request with the first of those known where that costs little, else put it beside them."""
    for i, other in enumerate(known):
        both = other.united(demand)
        if both.n_bytes(width) <= max(SMALL, 2 * (other.n_bytes(width) + demand.n_bytes(width))):
            known[i] = both
            return
    known.append(demand)
