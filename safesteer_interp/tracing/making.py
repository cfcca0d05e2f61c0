"""Makes one trace: its key, the shards it still lacks, and the folder they go to (or memory)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.fingerprint import template_fingerprint
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.progress import progress_bar
from safesteer_interp.requests import index_of
from safesteer_interp.tracing.batching import BatchSize
from safesteer_interp.tracing.capture import Capture
from safesteer_interp.tracing.catalogue import StoredTrace
from safesteer_interp.tracing.contents import Contents
from safesteer_interp.tracing.demand import Want
from safesteer_interp.tracing.engines import load_tracer
from safesteer_interp.tracing.key import common_fields, trace_fields, trace_key
from safesteer_interp.tracing.parts import Parts, Share
from safesteer_interp.tracing.plan import Work, cut, needed_bytes
from safesteer_interp.tracing.shards import MemoryShard, Shard
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.trace import Trace

_PACKAGES = ("safesteer-interp", "torch", "transformers", "nnsight", "transformer-lens")
ShardMaker = Callable[[int], MemoryShard]


@dataclass(frozen=True)
class Maker:
    """How a library makes its traces. Wants must have contents, each of them once (`Want.of`)."""

    model: MLLM
    contents: Contents
    store: Store | None
    tracer: str
    size: BatchSize
    progress: bool
    remote: bool | str

    @property
    def common(self) -> dict[str, Any]:
        """What all keys share; looked at anew each time, since a loaded model can be changed."""
        return common_fields(self.model, self.tracer, remote=self.remote)

    @cached_property
    def meta(self) -> dict[str, Any]:
        """For the record, not part of the key: what the model is called and which library versions ran."""
        return {
            "model": self.model.name,
            "family": self.model.layout.family,
            "n_layers": self.model.n_layers,
            "width": self.model.width,
            "template": template_fingerprint(self.model.processor, self.model.system_prompt, self.model.thinking),
            "versions": {package: _version(package) for package in _PACKAGES},
        }

    def work(self, want: Want) -> Work:
        """What is still to be done for a want. Raises UsageError for an edit without a key when it is to be stored."""
        reads = want.demand.reads_of(want.requests)
        fields = trace_fields(self.common, want.demand, want.contents, reads)
        slim = {name: value for name, value in fields.items() if name != "requests"}
        n_bytes = needed_bytes(self.model, want.demand, len(want.requests), len(reads))
        if self.store is None:
            return Work(want, reads, slim, "", cut(self.model, want.requests), n_bytes)
        for edit in want.edits:
            if not edit.key:
                raise UsageError(
                    f'edit "{edit.name}" has no key, so its trace cannot be stored; give Edit(key=...) a string that changes '
                    "whenever the function's result does, or collect with store=None."
                )
        key = trace_key(fields)
        begun = self.store.begun(key)
        if begun is None:
            return Work(want, reads, slim, key, cut(self.model, want.requests), n_bytes)
        return Work(want, reads, slim, key, begun.cut, n_bytes, tuple(i for i in range(begun.n_shards) if begun.has(i)))

    def in_memory(self, want: Want) -> Trace:
        """The trace of a want, kept nowhere."""
        work = self.work(want)
        with self._shards(work) as shard:
            shards: list[Shard] = [shard(number) for number in range(len(work.chunks))]
        return Trace("", work.fields, self.meta, index_of(want.requests), shards, want.contents)

    def stored(self, want: Want, store: Store) -> StoredTrace:
        """The trace of a want, finished in the store: shards that an interrupted run left are kept, damaged ones made again.

        While another process writes it, waits. Raises InputError when the disk is full and when an activation is not finite.
        """
        work = self.work(want)
        work.check_space(store.root)
        with store.claim(work.key, work.fields, self.meta, work.chunks) as folder:
            if len(folder.hashes) > len(work.finished):  # another process made them while we waited
                work = self.work(want)
            with self._shards(work) as shard:
                folder.write_index(index_of(want.requests), want.contents)
                parts = Parts(folder.path, work.chunks)
                for number in range(len(work.chunks)):
                    if not folder.has(number) and not parts.move(number, folder):
                        made = shard(number)
                        self._check_prompts(want, work.chunks[number])
                        folder.add(number, made.tensors, made.answers)
                folder.save()
                parts.clear()
        return StoredTrace(work.key, want.demand, want.contents, len(work.chunks))

    def part(self, want: Want, store: Store, share: Share) -> int:
        """Makes this share's shards of a want's trace and leaves them for `stored` to take over; returns how many it made.

        Several processes may be at it at once, on one machine or on many that share the store. Raises as `stored`, but takes no lock.
        """
        work, made = self.work(want), 0
        work.check_space(store.root)
        parts = Parts(store.path(work.key), work.chunks)
        due = [n for n in share.mine(len(work.chunks)) if n not in work.finished and not parts.has(n)]
        with self._shards(work) as shard:
            for number in due:
                fresh = shard(number)
                self._check_prompts(want, work.chunks[number])
                parts.add(number, fresh.tensors, fresh.answers)
                made += 1
        return made

    @contextmanager
    def _shards(self, work: Work) -> Iterator[ShardMaker]:
        """While open, makes one shard after the other, with progress; the tracer is built when the first is asked for."""
        want, n = work.want, len(work.want.requests)
        label = f"tracing {self.model.name}" + (f" ({work.n_kept} of {n} kept from before)" if work.n_kept else "")
        with progress_bar(label, n, enabled=self.progress, done=work.n_kept) as advance:

            def shard(number: int) -> MemoryShard:
                engine = load_tracer(self.tracer, self.model, remote=self.remote)
                capture = Capture.of(engine, self.model, want.demand, work.reads, want.edits, self.size)
                return capture.shard(want.requests, work.chunks[number], advance)

            yield shard

    def _check_prompts(self, want: Want, rows: Sequence[int]) -> None:
        """The states just captured must be those of the key: a picture may be replaced, a chat template that prints the date move on."""
        requests = [want.requests[row] for row in rows]
        for row, now in zip(rows, self.contents.of(requests), strict=True):
            if now != want.contents[row]:
                image = want.requests[row].image
                replaced = f"its picture {image.label} was replaced, or " if image is not None and image.may_change else ""
                raise InputError(
                    f'request "{want.requests[row].id}" changed while it was traced: {replaced}the chat template of {self.model.name} does '
                    "not render the prompts that this trace began with (does it print the date?); run the same command again, or collect "
                    "with store=None."
                )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
