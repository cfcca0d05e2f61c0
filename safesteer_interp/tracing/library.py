"""The trace library: whoever asks for states finds what anyone has traced, and only what is missing is made.

One model, one store, one tracer. `collect`, `safesteer trace`, `safesteer run` and the analyses all ask here, and everything that is
made is listed in the store's catalogue. Without a store everything stays in memory and nothing is found again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from safesteer_interp.errors import BadRequestError, UsageError
from safesteer_interp.files import digest
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.batching import BatchSize, parse_batch_size
from safesteer_interp.tracing.catalogue import Catalogue, StoredTrace, fewest
from safesteer_interp.tracing.contents import Contents
from safesteer_interp.tracing.demand import Want, unite
from safesteer_interp.tracing.engines import check_tracer, chosen
from safesteer_interp.tracing.making import Maker
from safesteer_interp.tracing.parts import Share
from safesteer_interp.tracing.plan import Plan, check_want, free_bytes, needed_bytes
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.trace import Trace
from safesteer_interp.tracing.view import Part, TraceView


class TraceLibrary:
    """The traces of one model in one store (None: in memory), made by one tracer (None: `engines.chosen`).

    Raises UsageError for a tracer that does not exist or cannot run this model, and for a batch size below 1 that is
    not "auto".
    """

    def __init__(
        self,
        model: MLLM,
        store: Store | None,
        *,
        tracer: str | None = None,
        batch_size: int | str = 16,
        progress: bool = True,
        remote: bool | str = False,
    ) -> None:
        size = BatchSize(parse_batch_size(batch_size), f"{model.fingerprint[:16]} on {model.device}")
        tracer = chosen(tracer, remote=remote)
        check_tracer(model, tracer, remote=remote)
        self.model = model
        self.store = store
        self.contents = Contents(model)
        self.maker = Maker(model, self.contents, store, tracer, size, progress, remote)
        self._seen: dict[str, Request] = {}
        """A request of every content met so far: damaged traces are mended with them."""
        self._opened: dict[str, Trace] = {}
        self._catalogues: dict[str, Catalogue] = {}

    def want(self, requests: Sequence[Request], **ask: Any) -> Want:
        """What a call asks for: sites, reads, sampling, edits and logits as in `tracing.collecting.collect`, and raising as it does."""
        want = Want.asked(requests, self.model.n_layers, n_vision=self.model.n_vision_layers, **ask)
        check_want(self.model, want)
        check_tracer(self.model, self.maker.tracer, remote=self.maker.remote, temperature=want.demand.temperature)
        return want

    def collect(self, requests: Sequence[Request], **ask: Any) -> TraceView:
        """`view(want(...))`."""
        return self.view(self.want(requests, **ask))

    def missing(self, wants: Iterable[Want]) -> list[Want]:
        """The traces to be made before all of these can be viewed, united so that a request runs as rarely as can be.

        Raises InputError, naming the request, for one that cannot be encoded.
        """
        return unite([self._split(self._known(want))[1] for want in wants], self.model.width)

    def plan(self, want: Want) -> Plan:
        """What `view` would find, and what it would trace. Runs no forward."""
        known = self._known(want)
        found, lacking = self._split(known)
        n = len(known.distinct)
        return Plan(
            demand=want.demand,
            n_requests=n,
            found=tuple(sorted({trace.key for trace in found.values()})),
            n_found=len(found),
            work=self.maker.work(lacking) if lacking.requests else None,
            batch_size=self.maker.size.now,
            bytes=needed_bytes(self.model, want.demand, n, len(want.demand.reads_of(known.requests))),
            free=free_bytes(self.store.root) if self.store else None,
        )

    def make(self, want: Want) -> Trace:
        """Traces a want as one trace and lists it, going on where an interrupted run stopped and mending what is damaged.

        While another process writes the same trace, waits for what that makes. Raises UsageError for an edit without a key, InputError
        for activations that are not finite and for a disk that is full; finished shards are kept.
        """
        known = self._known(want)
        once = known.of(known.contents)
        if self.store is None:
            return self.maker.in_memory(once)
        stored = self.maker.stored(once, self.store)
        self.catalogue.add(stored)
        self._opened[stored.key] = self.store.open(stored.key)
        return self._opened[stored.key]

    def make_share(self, want: Want, share: Share) -> int:
        """Traces one of several shares of what is missing of a want, for another process to take over (`tracing/parts.py`); returns the
        number of shards made. Raises UsageError without a store, and as `make` does."""
        if self.store is None:
            raise UsageError("parts of a trace are left in a store; give the library one.")
        lacking = self._split(self._known(want))[1]
        return self.maker.part(lacking.of(lacking.contents), self.store, share) if lacking.requests else 0

    def view(self, want: Want) -> TraceView:
        """The states wanted, out of the traces that hold them; what none holds is traced first. Raises as `make` does."""
        known = self._known(want)
        found, lacking = self._split(known)
        held: dict[str, Trace] = {}
        if lacking.requests:
            held |= dict.fromkeys(lacking.contents, self.make(lacking))
        for stored in dict.fromkeys(found.values()):
            contents = [content for content, trace in found.items() if trace is stored]
            held |= dict.fromkeys(contents, self._open(stored, known.of(contents)))
        return self._view(known, held)

    @property
    def catalogue(self) -> Catalogue:
        """What the store holds of this model, made by this tracer. Raises UsageError without a store."""
        if self.store is None:
            raise UsageError("a library without a store has no catalogue; give it a Store.")
        name = digest(self.maker.common)[:32]
        return self._catalogues.setdefault(name, Catalogue(self.store.root / "catalogue" / name))

    def _known(self, want: Want) -> Want:
        """The want with the contents of its requests."""
        known = want if want.contents else replace(want, contents=self.contents.of(want.requests))
        self._seen.update(zip(known.contents, known.requests, strict=True))
        return known

    def _split(self, want: Want) -> tuple[dict[str, StoredTrace], Want]:
        """(content -> the finished trace to read it from, the want of those contents that no trace holds)."""
        found: dict[str, StoredTrace] = {}
        if self.store is not None:
            listed = [trace for trace in self.catalogue.traces() if trace.demand.covers(want.demand)]
            found = fewest([trace for trace in listed if self.store.holds(trace.key, trace.n_shards)], want.contents)
        return found, want.of(content for content in want.contents if content not in found)

    def _open(self, stored: StoredTrace, want: Want) -> Trace:
        """A listed trace, checked when it is first opened, that holds the want; a damaged one is mended, or the want traced anew."""
        trace = self._opened.get(stored.key) or (self.store.opened(stored.key) if self.store else None)
        if trace is None and (requests := self._still(stored.contents)):
            trace = self.make(Want(stored.demand, requests, want.edits, contents=stored.contents))
        if trace is None:
            self.catalogue.remove(stored)
            trace = self.make(want)
        return self._opened.setdefault(trace.key, trace)

    def _still(self, contents: Sequence[str]) -> tuple[Request, ...]:
        """Requests of these contents, all of which were met before and are the same today; none where one is not."""
        if not all(content in self._seen for content in contents):
            return ()
        requests = tuple(self._seen[content] for content in contents)
        try:
            return requests if self.contents.of(requests) == tuple(contents) else ()
        except BadRequestError:  # its picture is gone
            return ()

    def _view(self, want: Want, held: Mapping[str, Trace]) -> TraceView:
        """The want's rows, each from the trace that holds its content."""
        places: dict[int, list[int]] = {}
        for at, content in enumerate(want.contents):
            places.setdefault(id(held[content]), []).append(at)
        traces = {id(trace): trace for trace in held.values()}
        parts = []
        for number, shown in places.items():
            row = {content: i for i, content in enumerate(traces[number].contents)}
            parts.append(Part(traces[number], np.array([row[want.contents[i]] for i in shown]), np.array(shown)))
        return TraceView(
            parts,
            want.requests,
            sites=want.sites or want.demand.sites,
            reads=want.reads or want.demand.reads,
            max_new_tokens=want.demand.max_new_tokens,
            logits=want.demand.logits,
            decode=self._decode,
        )

    def _decode(self, tokens: list[int]) -> str:
        return str(self.model.tokenizer.decode(tokens, skip_special_tokens=True))
