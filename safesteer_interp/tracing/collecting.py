"""collect(): every asked site and read of a data set in one pass per batch, streamed to the store, resumable at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.tracing.demand import ReadsLike, SitesLike
from safesteer_interp.tracing.engines import load_tracer
from safesteer_interp.tracing.library import TraceLibrary
from safesteer_interp.tracing.plan import Plan
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.tracer import GREEDY, Edit, Sampling
from safesteer_interp.tracing.view import TraceView

__all__ = ["StoreLike", "collect", "load_tracer", "plan", "store_of"]

StoreLike = Store | Path | str | Literal["default"] | None
"""Where traces are kept: "default" is the user's store, None is memory, anything else a Store or the folder of one."""


def plan(
    model: MLLM,
    requests: Sequence[Request],
    *,
    sites: SitesLike = "all",
    reads: ReadsLike = "last_prompt",
    tracer: str | None = None,
    sampling: Sampling = GREEDY,
    edits: Sequence[Edit] = (),
    batch_size: int | str = 16,
    store: StoreLike = "default",
    logits: bool = False,
    remote: bool | str = False,
) -> Plan:
    """What `collect` would do with the same arguments: passes, bytes, free disk, rows already stored. Runs no forward."""
    library = TraceLibrary(model, store_of(store), tracer=tracer, batch_size=batch_size, remote=remote)
    return library.plan(library.want(requests, sites=sites, reads=reads, sampling=sampling, edits=edits, logits=logits))


def collect(
    model: MLLM,
    requests: Sequence[Request],
    *,
    sites: SitesLike = "all",
    reads: ReadsLike = "last_prompt",
    tracer: str | None = None,
    sampling: Sampling = GREEDY,
    edits: Sequence[Edit] = (),
    batch_size: int | str = 16,
    store: StoreLike = "default",
    progress: bool = True,
    logits: bool = False,
    remote: bool | str = False,
) -> TraceView:
    """States of every request at every asked site and read, captured in one pass per batch.

    What is stored already, by whatever command and in however large a trace, is read and not computed; the rest is traced, streamed to
    the `store` (by default the user's; None: memory only) shard by shard, and resumes when the same call was interrupted. `sites` and
    `reads` take the command line's notation ("all", "resid_post.0-9"; "last_prompt,step:1-8") or objects. Answers are generated only as
    far as `sampling` or a step asks. Labels of the index are those of the requests given here. `tracer` None is `DEFAULT_TRACER`, or
    nnsight for a `remote` run.

    Raises UsageError for names that mean nothing and for an edit without a key that would be stored, InputError for unreadable images,
    for activations that are not finite (naming model, site and request) and for a disk that is full; nothing finished
    is lost.
    """
    library = TraceLibrary(model, store_of(store), tracer=tracer, batch_size=batch_size, progress=progress, remote=remote)
    return library.collect(requests, sites=sites, reads=reads, sampling=sampling, edits=edits, logits=logits)


def store_of(store: StoreLike) -> Store | None:
    """The store that is meant; None for memory."""
    if store is None or isinstance(store, Store):
        return store
    return Store() if store == "default" else Store(store)
