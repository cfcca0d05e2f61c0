"""What a trace will cost before it runs: which requests go together, how many passes, how many bytes, what is stored already."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.filesize import decimal

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, ReadKind, Site, readable
from safesteer_interp.tracing.demand import Demand, Want
from safesteer_interp.tracing.eyes import width_of
from safesteer_interp.tracing.key import CHUNK


@dataclass(frozen=True)
class Work:
    """One trace to be made: its key, its shards, and those that an interrupted run has left of it."""

    want: Want
    """Every request once, with its content."""
    reads: tuple[str, ...]
    """Those of the demand's reads that the requests have."""
    fields: dict[str, Any]
    """What the key is made of, without the requests."""
    key: str
    """Empty when nothing is to be stored."""
    chunks: tuple[tuple[int, ...], ...]
    """Requests of each shard, by position, shortest first."""
    bytes: int
    """Of the whole trace, states and logits."""
    finished: tuple[int, ...] = ()
    """Shards that are stored and undamaged."""

    @property
    def n_kept(self) -> int:
        """Requests whose shard is finished."""
        return sum(len(self.chunks[i]) for i in self.finished)

    @property
    def bytes_left(self) -> int:
        """Bytes still to be written."""
        n = len(self.want.requests)
        return self.bytes * (n - self.n_kept) // max(1, n)

    def batches(self, batch_size: int) -> int:
        """Batches still to run."""
        left = [chunk for i, chunk in enumerate(self.chunks) if i not in self.finished]
        return sum(-(-len(chunk) // batch_size) for chunk in left)

    def check_space(self, root: Path) -> None:
        """Raises InputError when the rest of the trace does not fit on the disk."""
        free = free_bytes(root)
        if self.bytes_left > free:
            raise InputError(
                f"the trace needs {decimal(self.bytes_left)} more in {root}, but only {decimal(free)} are free; "
                "free some space, choose another --store, or ask for fewer sites or reads."
            )


@dataclass(frozen=True)
class Plan:
    """How a want will be met. Print it with `str(plan)`, or `as_dict()` for `--json`."""

    demand: Demand
    n_requests: int
    """Those of one content count once: they run once."""
    found: tuple[str, ...]
    """Keys of finished traces that hold part of it, or all."""
    n_found: int
    """Requests whose states they hold."""
    work: Work | None
    """The trace still to be made; None when everything was found."""
    batch_size: int
    bytes: int
    """Of everything asked for, states and logits."""
    free: int | None
    """Bytes free where the store lies; None when nothing is to be stored."""

    @property
    def key(self) -> str:
        """Keys of the traces that hold it, or will, as one word; empty when nothing is to be stored."""
        return "+".join([*self.found, *([self.work.key] if self.work and self.work.key else [])])

    @property
    def n_stored(self) -> int:
        """Requests that need no forward any more."""
        return self.n_found + (self.work.n_kept if self.work else 0)

    @property
    def batches(self) -> int:
        """Batches still to run."""
        return self.work.batches(self.batch_size) if self.work else 0

    @property
    def steps(self) -> int:
        """Decoding passes per batch, at most."""
        return self.demand.steps

    @property
    def bytes_left(self) -> int:
        """Bytes still to be written."""
        return self.work.bytes_left if self.work else 0

    def as_dict(self) -> dict[str, Any]:
        """The numbers of the plan, JSON-ready."""
        return {
            "key": self.key,
            "requests": self.n_requests,
            "stored": self.n_stored,
            "batches": self.batches,
            "prompt_passes": self.batches,
            "decoding_passes": self.batches * self.steps,
            "bytes": self.bytes,
            "bytes_left": self.bytes_left,
            "free": self.free,
        }

    def __str__(self) -> str:
        disk = "kept in memory" if self.free is None else f"{decimal(self.free)} free on disk"
        passes, decoding = _count(self.batches, "prompt pass", "es"), _count(self.batches * self.steps, "decoding pass", "es")
        return (
            f"{_count(self.n_requests, 'request')} ({self.n_stored} stored already), {_count(len(self.demand.sites), 'site')} x "
            f"{_count(len(self.demand.reads), 'read')}\n"
            f"{passes} of up to {_count(self.batch_size, 'request')}, at most {decoding}\n"
            f"{decimal(self.bytes)} in all, {decimal(self.bytes_left)} still to write, {disk}\n"
            f"key {self.key or '(not stored)'}"
        )


def cut(model: MLLM, requests: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
    """Shards of up to `key.CHUNK` requests of similar length: by image, attack (which fixes the picture's form), text tokens, content.

    The cut never depends on the batch size. An attack is a label, and no part of the key: a resumed run takes the cut from the manifest.
    """
    lengths = [len(ids) for ids in model.tokenizer([r.text for r in requests], add_special_tokens=False)["input_ids"]]

    def similar(i: int) -> tuple[tuple[bool, str], int, str, int]:
        return requests[i].form, lengths[i], requests[i].key(), i

    order = sorted(range(len(requests)), key=similar)
    return tuple(tuple(order[start : start + CHUNK]) for start in range(0, len(order), CHUNK))


def needed_bytes(model: MLLM, demand: Demand, n_requests: int, n_reads: int) -> int:
    """Bytes of the states (model dtype) and logits (float32) of a trace; a request may have fewer reads than the demand."""
    places = [Site.parse(site) for site in demand.sites]
    values = sum(width_of(model, site) * (min(n_reads, 1) if site.in_eyes else n_reads) for site in places)
    states = n_requests * values * torch.empty(0, dtype=model.dtype).element_size()
    vocab = int(model.model.config.get_text_config().vocab_size)
    return states + (n_requests * vocab * 4 if demand.logits else 0)


def free_bytes(root: Path) -> int:
    """Bytes free where `root` lies or will lie."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def check_want(model: MLLM, want: Want) -> None:
    """Refuse, before anything is computed, what cannot work. Raises InputError (requests) or UsageError (reads, sites)."""
    if not want.requests:
        raise InputError("there is no request to trace; check the data set's name and filters.")
    if not want.demand.sites or not want.demand.reads:
        raise UsageError("name at least one site and one read, e.g. --sites all --reads last_prompt.")
    reads = [Read.parse(read) for read in want.demand.reads]
    for site in map(Site.parse, want.demand.sites):
        if not any(readable(site, read) for read in reads):
            raise UsageError(f"{site} holds a picture and no text, and is read as image_mean; ask for that read.")
    pictured = next((request for request in want.requests if request.image is not None), None)
    if pictured is not None and not model.takes_images:
        raise InputError(f'request "{pictured.id}" has an image, but {model.name} takes text only; drop the images or use an MLLM.')
    if pictured is None and ReadKind.IMAGE_MEAN in want.demand.reads:
        raise UsageError('read "image_mean" was asked for, but no request has an image.')


def _count(n: int, what: str, ending: str = "s") -> str:
    return f"{n} {what}" + (ending if n != 1 else "")
