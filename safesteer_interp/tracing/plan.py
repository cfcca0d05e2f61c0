"""What a trace will cost before it runs: which requests go together, how many passes, how many bytes, what is stored already."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.sites import Read, ReadKind, Site
from safesteer_interp.tracing.key import CHUNK
from safesteer_interp.tracing.tracer import GREEDY, TRACERS, Sampling


@dataclass(frozen=True)
class Plan:
    """One trace, cut into shards and batches. Print it with `str(plan)`, or `as_dict()` for `--json`."""

    key: str
    """Hash of everything that affects the numbers; empty when nothing is to be stored."""
    fields: dict[str, Any]
    chunks: tuple[tuple[int, ...], ...]
    """Requests of each shard, by position, shortest first."""
    batch_size: int
    steps: int
    """Decoding passes per batch, at most."""
    bytes: int
    """Of the whole trace, states and logits."""
    free: int | None
    """Bytes free where the store lies; None when nothing is to be stored."""
    finished: tuple[int, ...] = ()
    """Shards that are stored and undamaged."""

    @property
    def n_requests(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    @property
    def n_stored(self) -> int:
        """Requests that need no forward any more."""
        return sum(len(self.chunks[i]) for i in self.finished)

    @property
    def batches(self) -> int:
        """Batches still to run."""
        left = [chunk for i, chunk in enumerate(self.chunks) if i not in self.finished]
        return sum(-(-len(chunk) // self.batch_size) for chunk in left)

    @property
    def bytes_left(self) -> int:
        """Bytes still to be written."""
        return self.bytes * (self.n_requests - self.n_stored) // max(1, self.n_requests)

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
        disk = "kept in memory" if self.free is None else f"{_size(self.free)} free on disk"
        passes, decoding = _count(self.batches, "prompt pass", "es"), _count(self.batches * self.steps, "decoding pass", "es")
        return (
            f"{_count(self.n_requests, 'request')} ({self.n_stored} stored already), {_count(len(self.fields['sites']), 'site')} x "
            f"{_count(len(self.fields['reads']), 'read')}\n"
            f"{passes} of up to {_count(self.batch_size, 'request')}, at most {decoding}\n"
            f"{_size(self.bytes)} in all, {_size(self.bytes_left)} still to write, {disk}\n"
            f"key {self.key or '(not stored)'}"
        )

    def check_space(self, root: Path) -> None:
        """Raises InputError when the rest of the trace does not fit on the disk."""
        if self.free is not None and self.bytes_left > self.free:
            raise InputError(
                f"the trace needs {_size(self.bytes_left)} more in {root}, but only {_size(self.free)} are free; "
                "free some space, choose another --store, or ask for fewer sites or reads."
            )


def cut(model: MLLM, requests: Sequence[Request]) -> tuple[tuple[int, ...], ...]:
    """Shards of up to `key.CHUNK` requests of similar length: by image, attack (which fixes the picture's form), text tokens, content.

    The cut depends on the requests and the tokenizer alone, never on the batch size, so a resumed run cuts alike; identical
    requests become neighbours and are run once.
    """
    lengths = [len(ids) for ids in model.tokenizer([r.text for r in requests], add_special_tokens=False)["input_ids"]]

    def similar(i: int) -> tuple[tuple[bool, str], int, str, int]:
        return requests[i].form, lengths[i], requests[i].key(), i

    order = sorted(range(len(requests)), key=similar)
    return tuple(tuple(order[start : start + CHUNK]) for start in range(0, len(order), CHUNK))


def needed_bytes(model: MLLM, n_requests: int, n_sites: int, n_reads: int, *, logits: bool) -> int:
    """Bytes of the states (model dtype) and logits (float32) of a trace."""
    states = n_requests * n_sites * n_reads * model.width * torch.empty(0, dtype=model.dtype).element_size()
    vocab = int(model.model.config.get_text_config().vocab_size)
    return states + (n_requests * vocab * 4 if logits else 0)


def free_bytes(root: Path) -> int:
    """Bytes free where `root` lies or will lie."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def check_requests(model: MLLM, requests: Sequence[Request], reads: Sequence[Read], sites: Sequence[Site], batch_size: int) -> None:
    """Refuse, before anything is computed, what cannot work. Raises InputError (requests) or UsageError (reads, sites, batch size)."""
    if not requests:
        raise InputError("there is no request to trace; check the data set's name and filters.")
    if batch_size < 1:
        raise UsageError(f"batch size {batch_size} is not a positive whole number.")
    if not sites or not reads:
        raise UsageError("name at least one site and one read, e.g. --sites all --reads last_prompt.")
    pictured = next((request for request in requests if request.image is not None), None)
    if pictured is not None and not model.takes_images:
        raise InputError(f'request "{pictured.id}" has an image, but {model.name} takes text only; drop the images or use an MLLM.')
    if pictured is None and any(read.kind is ReadKind.IMAGE_MEAN for read in reads):
        raise UsageError('read "image_mean" was asked for, but no request has an image.')


def check_tracer(model: MLLM, name: str, *, remote: bool | str = False, sampling: Sampling = GREEDY) -> None:
    """Refuse, before an engine is built or a plan is shown, an engine that cannot do what is asked. Raises UsageError."""
    if name not in TRACERS:
        raise UsageError(f'no tracer is called "{name}".{did_you_mean(name, TRACERS)}')
    if remote and name != "nnsight":
        raise UsageError(f'--remote needs the nnsight tracer; "{name}" runs in this process only.')
    if remote and sampling.temperature > 0:
        raise UsageError("remote traces choose tokens greedily; set the temperature to 0, or trace without --remote.")
    if name == "transformer_lens" and not model.layout.bridge:
        raise UsageError(
            f'TransformerLens has no adapter for the family "{model.layout.family}"; trace it with --tracer nnsight or --tracer hooks.'
        )


def _count(n: int, what: str, ending: str = "s") -> str:
    return f"{n} {what}" + (ending if n != 1 else "")


def _size(n: int) -> str:
    size = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
