"""collect(): every asked site and read of a data set in one pass per batch, streamed to the store, resumable at any moment."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safesteer_interp.errors import InputError
from safesteer_interp.models.fingerprint import template_fingerprint
from safesteer_interp.models.mllm import MLLM, Encoded
from safesteer_interp.progress import progress_bar
from safesteer_interp.requests import Request, index_of
from safesteer_interp.sites import Read, Site, parse_reads, parse_sites
from safesteer_interp.tracing.key import trace_fields, trace_key
from safesteer_interp.tracing.plan import Plan, check_requests, check_tracer, cut, free_bytes, needed_bytes
from safesteer_interp.tracing.shards import MemoryShard, Shard
from safesteer_interp.tracing.steps import forward_order
from safesteer_interp.tracing.store import Store, Trace
from safesteer_interp.tracing.trace import state_name
from safesteer_interp.tracing.tracer import GREEDY, TRACERS, Captured, Edit, Sampling, Tracer

SitesLike = str | Iterable[str | Site]
ReadsLike = str | Iterable[str | Read]

_PACKAGES = ("safesteer-interp", "torch", "transformers", "nnsight", "transformer-lens")


def load_tracer(name: str, model: MLLM, *, remote: bool | str = False) -> Tracer:
    """The tracer called `name` on this model; built once per model and kept, since two of them copy the module tree.

    `remote` (nnsight only): True runs on NDIF, "local" runs the remote path in this process. Raises UsageError for an unknown name,
    for `remote` with another tracer, and for a family the tracer cannot run.
    """
    check_tracer(model, name, remote=remote)
    kept: dict[tuple[str, bool | str], Tracer] = model.tracers
    if (name, remote) not in kept:
        module, _, cls = TRACERS[name].partition(":")
        factory = getattr(importlib.import_module(module), cls)
        kept[name, remote] = factory(model, remote=remote) if name == "nnsight" else factory(model)
    return kept[name, remote]


def plan(
    model: MLLM,
    requests: Sequence[Request],
    *,
    sites: SitesLike = "all",
    reads: ReadsLike = "last_prompt",
    tracer: str = "nnsight",
    sampling: Sampling = GREEDY,
    edits: Sequence[Edit] = (),
    batch_size: int = 16,
    store: Store | Path | str | None = None,
    logits: bool = False,
    remote: bool | str = False,
) -> Plan:
    """What `collect` would do with the same arguments: passes, bytes, free disk, rows already stored. Runs no forward."""
    at, positions = _sites(sites, model), _reads(reads)
    check_requests(model, requests, positions, at, batch_size)
    check_tracer(model, tracer, remote=remote, sampling=sampling)
    kept = _store(store)
    fields = trace_fields(
        model,
        requests,
        at,
        positions,
        tracer=f"{tracer}:remote" if remote else tracer,
        sampling=sampling,
        edits=edits,
        logits=logits,
        stored=kept is not None,
    )
    key = trace_key(fields) if kept else ""
    chunks = cut(model, requests)
    last_step = max([sampling.max_new_tokens - 1, *(read.step or 0 for read in positions)], default=0)
    return Plan(
        key=key,
        fields=fields,
        chunks=chunks,
        batch_size=batch_size,
        steps=max(0, last_step),
        bytes=needed_bytes(model, len(requests), len(at), len(positions), logits=logits),
        free=free_bytes(kept.root) if kept else None,
        finished=tuple(kept.finished(key, len(chunks))) if kept else (),
    )


def collect(
    model: MLLM,
    requests: Sequence[Request],
    *,
    sites: SitesLike = "all",
    reads: ReadsLike = "last_prompt",
    tracer: str = "nnsight",
    sampling: Sampling = GREEDY,
    edits: Sequence[Edit] = (),
    batch_size: int = 16,
    store: Store | Path | str | None = None,
    progress: bool = True,
    logits: bool = False,
    remote: bool | str = False,
) -> Trace:
    """States of every request at every asked site and read, captured in one pass per batch.

    With a `store` (or a folder for one) finished shards stream to disk, an interrupted run resumes when called again, and a finished
    trace is opened without a forward; without one everything stays in memory. `sites` and `reads` take the command line's notation
    ("all", "resid_post.0-9"; "last_prompt,step:1-8") or objects. Answers are generated only as far as `sampling` or a step asks.

    Raises UsageError for names that mean nothing, InputError for unreadable images, for activations that are not finite (naming
    model, site and request) and for a disk that is full or in use by another run; nothing finished is lost.
    """
    requests = list(requests)
    planned = plan(
        model,
        requests,
        sites=sites,
        reads=reads,
        tracer=tracer,
        sampling=sampling,
        edits=edits,
        batch_size=batch_size,
        store=store,
        logits=logits,
        remote=remote,
    )
    kept = _store(store)
    if kept and len(planned.finished) == len(planned.chunks):
        try:
            return kept.open(planned.key)
        except InputError:
            pass  # its index is damaged: rebuilt below, without a forward
    engine = load_tracer(tracer, model, remote=remote)
    at, positions = _sites(sites, model), _reads(reads)

    def run(number: int, advance: Any) -> MemoryShard:
        return _capture(
            engine, model, requests, planned.chunks[number], at, positions, sampling, edits, batch_size, logits=logits, advance=advance
        )

    index = index_of(requests)
    slim = {name: value for name, value in planned.fields.items() if name != "requests"}
    with progress_bar(f"tracing {model.name}", len(requests), enabled=progress, done=planned.n_stored) as advance:
        if kept is None:
            shards: list[Shard] = [run(number, advance) for number in range(len(planned.chunks))]
            return Trace("", slim, meta_of(model), index, shards)
        planned.check_space(kept.root)
        with kept.claim(planned.key, slim, meta_of(model), len(planned.chunks)) as folder:
            folder.write_index(index)
            for number in range(len(planned.chunks)):
                if not folder.has(number):
                    shard = run(number, advance)
                    folder.add(number, shard.tensors, shard.answers)
            folder.save()
    return kept.open(planned.key)


def meta_of(model: MLLM) -> dict[str, Any]:
    """For the record, not part of the key: what the model is called and which library versions ran."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "model": model.name,
        "family": model.layout.family,
        "n_layers": model.n_layers,
        "width": model.width,
        "template": template_fingerprint(model.processor, model.system_prompt),
        "versions": versions,
    }


def check_finite(captured: Captured, batch: Sequence[Request], model: MLLM) -> None:
    """Raises InputError naming model, site, read and request when a state or logit that exists is NaN or infinite."""
    advice = "load the model in float32 or bfloat16, or drop the request; finished shards are kept."
    for site, read in sorted(captured.states, key=lambda pair: (*forward_order(pair[0]), str(pair[1]))):
        bad = ~torch.isfinite(captured.states[site, read]).all(1) & captured.present[read]
        if bad.any():
            request = batch[int(bad.nonzero()[0])]
            raise InputError(f'{model.name} gave NaN or infinite activations at {site} ({read}) for request "{request.id}"; {advice}')
    if captured.logits is not None and not torch.isfinite(captured.logits).all():
        row = int((~torch.isfinite(captured.logits).all(1)).nonzero()[0])
        raise InputError(f'{model.name} gave NaN or infinite logits for request "{batch[row].id}"; {advice}')


def _capture(
    engine: Tracer,
    model: MLLM,
    requests: Sequence[Request],
    chunk: Sequence[int],
    sites: Sequence[Site],
    reads: Sequence[Read],
    sampling: Sampling,
    edits: Sequence[Edit],
    batch_size: int,
    *,
    logits: bool,
    advance: Any,
) -> MemoryShard:
    """Run one shard's requests in batches; requests with the same text and pixels run once."""
    same: dict[str, list[int]] = {}
    for row in chunk:
        same.setdefault(requests[row].key(), []).append(row)
    groups = list(same.values())
    parts: list[dict[str, Tensor]] = []
    tokens: list[list[int]] = []
    for start in range(0, len(groups), batch_size):
        group = groups[start : start + batch_size]
        batch = model.encode([requests[rows[0]] for rows in group])
        captured = engine.capture(batch, sites, reads, sampling=sampling, edits=edits, logits=logits)
        check_finite(captured, batch.requests, model)
        repeat = torch.tensor([i for i, rows in enumerate(group) for _ in rows])
        parts.append({name: tensor[repeat] for name, tensor in _tensors(captured, batch).items()})
        tokens += [captured.generated[i] for i in repeat.tolist()]
        advance(len(repeat))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    joined["row"] = torch.tensor([row for rows in groups for row in rows], dtype=torch.int64)
    joined["generated"] = torch.tensor([token for answer in tokens for token in answer], dtype=torch.int64)
    joined["generated_length"] = torch.tensor([len(answer) for answer in tokens], dtype=torch.int64)
    return MemoryShard(joined, [model.tokenizer.decode(answer, skip_special_tokens=True) for answer in tokens])


def _tensors(captured: Captured, batch: Encoded) -> dict[str, Tensor]:
    out = {state_name(site, read): states for (site, read), states in captured.states.items()}
    out |= {f"present/{read}": present for read, present in captured.present.items()}
    out["prompt_length"] = batch.attention_mask.sum(1).cpu().to(torch.int64)
    if captured.logits is not None:
        out["logits"] = captured.logits
    return out


def _sites(sites: SitesLike, model: MLLM) -> tuple[Site, ...]:
    return parse_sites(sites if isinstance(sites, str) else [str(site) for site in sites], model.n_layers)


def _reads(reads: ReadsLike) -> tuple[Read, ...]:
    return parse_reads(reads if isinstance(reads, str) else [str(read) for read in reads])


def _store(store: Store | Path | str | None) -> Store | None:
    return store if isinstance(store, Store) or store is None else Store(store)
