"""The harness: defenses x requests x seeds, to one tidy table of three-way outcomes."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from safesteer_interp.decoding.generate import by_length
from safesteer_interp.decoding.prompts import remembering_prompts
from safesteer_interp.defenses.defense import DEFAULTS, Defense, Settings, seeded
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.errors import InputError
from safesteer_interp.evaluation.judges import (
    DEGENERATION,
    REFUSAL,
    Degeneration,
    Outcome,
    RefusalStrings,
    outcome,
    perplexity_limit,
    repetition_rate,
)
from safesteer_interp.evaluation.perplexity import answer_perplexities, by_answer_length
from safesteer_interp.evaluation.store import ResponseStore, missing, record_of, response_fields
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.progress import progress_bar
from safesteer_interp.requests import Request, index_of

SEEDS = (0, 1, 2)
"""Answers are sampled at temperature 1.0, so one seed says little."""


def evaluate(
    mllm: MLLM,
    defenses: Mapping[str, Defense] | Sequence[Defense],
    requests: Sequence[Request],
    *,
    seeds: Sequence[int] = SEEDS,
    settings: Settings = DEFAULTS,
    refusal: RefusalStrings = REFUSAL,
    degeneration: Degeneration = DEGENERATION,
    perplexity: bool = False,
    root: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """One row per defense, request and seed: the request's labels, text, n_tokens, repetition, refused, outcome, seconds, verdict.

    `defenses` may be named by the caller (variants of one method) or go by their own names. Answers are stored line by line (`root`,
    default the user cache) and never generated twice. With `perplexity` each answer's perplexity under the undefended model is added
    and, unless `degeneration.perplexity` is set, its 99th percentile over the undefended answers (or all, without those) is the limit.
    Raises InputError for no requests or two requests with one id.
    """
    named = dict(defenses) if isinstance(defenses, Mapping) else {defense.name: defense for defense in defenses}
    _check(requests)
    keys = [request.key() for request in requests]
    index = index_of(requests)
    tables = []
    total = len(named) * len(seeds) * len(requests)
    with remembering_prompts(mllm), progress_bar(f"answering on {mllm.name}", total, enabled=progress) as advance:
        for name, defense in named.items():
            stored = respond_stored(mllm, defense, requests, keys, settings, seeds, root=root, advance=advance)
            tables += [_table(index, lines, name, seed) for seed, lines in zip(seeds, stored, strict=True)]
    table = pd.concat(tables, ignore_index=True)
    table["perplexity"] = math.nan
    if perplexity:
        places = {request.id: i for i, request in enumerate(requests)}
        asked_again = [requests[places[i]] for i in table["request"]]
        table["perplexity"] = perplexities_stored(mllm, asked_again, list(table["ids"]), batch_size=settings.batch_size, root=root)
        if degeneration.perplexity is None:
            vanilla = table[table["defense"] == "none"] if (table["defense"] == "none").any() else table
            degeneration = replace(degeneration, perplexity=perplexity_limit(list(vanilla["perplexity"])))
    return judged(table, refusal, degeneration)


def judged(table: pd.DataFrame, refusal: RefusalStrings = REFUSAL, degeneration: Degeneration = DEGENERATION) -> pd.DataFrame:
    """The table with `refused` and `outcome` by other rules; no model is needed."""
    outcomes = [
        outcome(text, ids, refusal=refusal, degeneration=degeneration, perplexity=ppl)
        for text, ids, ppl in zip(table["text"], table["ids"], table["perplexity"], strict=True)
    ]
    return table.assign(outcome=[str(o) for o in outcomes], refused=[o is Outcome.REFUSE for o in outcomes])


def respond_stored(
    mllm: MLLM,
    defense: Defense,
    requests: Sequence[Request],
    keys: Sequence[str],
    settings: Settings,
    seeds: Sequence[int],
    *,
    root: Path | None = None,
    advance: Any = None,
) -> list[list[dict[str, Any]]]:
    """For every seed one stored line per request, in order; only what is not stored yet is generated, a batch at a time.

    A batch holds requests under all the seeds they lack, so that an evaluation of few requests still fills it.
    """
    stores = {seed: ResponseStore(response_fields(mllm, defense, seeded(settings, seed)), root) for seed in dict.fromkeys(seeds)}
    stored = {seed: store.read() for seed, store in stores.items()}
    lacking: dict[int, list[int]] = {}
    for seed in stores:
        for place in missing(keys, stored[seed]):
            lacking.setdefault(place, []).append(seed)
    groups: dict[tuple[int, ...], list[int]] = {}
    for place in sorted(lacking):
        groups.setdefault(tuple(lacking[place]), []).append(place)
    if advance is not None:
        advance(len(seeds) * len(requests) - sum(map(len, lacking.values())))
    for group, todo in groups.items():
        for places in by_length([requests[i] for i in todo], max(1, settings.batch_size // len(group))):
            batch = [todo[p] for p in places]
            started = time.perf_counter()
            found = defense.respond_each(mllm, [requests[i] for i in batch], group, settings)
            share = (time.perf_counter() - started) / (len(batch) * len(group))
            for seed, responses in zip(group, found, strict=True):
                records = [record_of(response, keys[i], share) for i, response in zip(batch, responses, strict=True)]
                stores[seed].add(records)
                stored[seed].update({record["key"]: record for record in records})
            if advance is not None:
                advance(len(batch) * len(group))
    return [[stored[seed][key] for key in keys] for seed in seeds]


def perplexities_stored(
    mllm: MLLM, requests: Sequence[Request], answers: Sequence[Sequence[int]], *, batch_size: int = 16, root: Path | None = None
) -> list[float]:
    """`answer_perplexities`, stored beside the answers: each distinct answer to a request is scored once."""
    fields = {**response_fields(mllm, Undefended(), DEFAULTS), "what": "perplexity"}
    for name in ("defense", "sampling", "explain", "stop"):
        fields.pop(name)
    store = ResponseStore(fields, root)
    stored = store.read()
    keys = [hashlib.sha256(f"{r.key()}{list(ids)}".encode()).hexdigest() for r, ids in zip(requests, answers, strict=True)]
    todo = missing(keys, stored)
    empty = [i for i in todo if not len(answers[i])]
    batches = [[todo[p] for p in b] for b in by_answer_length([requests[i] for i in todo], [answers[i] for i in todo], batch_size)]
    for batch in [empty, *batches] if empty else batches:
        found = answer_perplexities(mllm, [requests[i] for i in batch], [answers[i] for i in batch], batch_size=batch_size)
        records: list[dict[str, Any]] = [{"key": keys[i], "perplexity": value} for i, value in zip(batch, found, strict=True)]
        store.add(records)
        stored.update({record["key"]: record for record in records})
    return [float(stored[key]["perplexity"]) for key in keys]


def _table(index: pd.DataFrame, lines: Sequence[Mapping[str, Any]], name: str, seed: int) -> pd.DataFrame:
    return index.assign(
        defense=name,
        seed=seed,
        text=[line["text"] for line in lines],
        ids=[line["ids"] for line in lines],
        n_tokens=[len(line["ids"]) for line in lines],
        repetition=[repetition_rate(line["ids"]) for line in lines],
        verdict=[line["verdict"] for line in lines],
        steps=[line["steps"] for line in lines],
        seconds=[line["seconds"] for line in lines],
    )


def _check(requests: Sequence[Request]) -> None:
    if not requests:
        raise InputError("there is no request to answer; check the data set's name and filters.")
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise InputError(f'two requests are called "{request.id}"; give each its own id, or evaluate the data sets one by one.')
        seen.add(request.id)
