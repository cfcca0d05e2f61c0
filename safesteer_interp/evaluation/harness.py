"""The harness: defenses x requests x seeds, to one tidy table of three-way outcomes."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import pandas as pd

from safesteer_interp.decoding.answering import answer_asks
from safesteer_interp.decoding.loop import Decoded
from safesteer_interp.decoding.pace import Pace
from safesteer_interp.decoding.prompt_cache import remembering_prompts
from safesteer_interp.decoding.sharing import Ask, by_answer_length, by_length
from safesteer_interp.defenses.defense import DEFAULTS, Defense, Response, Settings, StagedDefense, is_staged, response_of, seeded
from safesteer_interp.defenses.none import Undefended
from safesteer_interp.errors import InputError, UsageError
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
from safesteer_interp.evaluation.outlook import Outlook
from safesteer_interp.evaluation.perplexity import answer_perplexities
from safesteer_interp.evaluation.store import ResponseStore, missing, record_of, response_fields
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.progress import progress_bar
from safesteer_interp.requests import Request, check_unchanged, index_of

SEEDS = (0, 1, 2)
"""Answers are sampled at temperature 1.0, so one seed says little."""


@dataclass(frozen=True)
class Condition:
    """One defense with what it is to answer."""

    name: str
    """What the table calls it: variants of one method have names of their own."""
    defense: Defense
    requests: Sequence[Request]
    seeds: Sequence[int] = SEEDS


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
    named = dict(defenses) if isinstance(defenses, Mapping) else _by_name(defenses)
    _check(requests)
    conditions = [Condition(name, defense, requests, seeds) for name, defense in named.items()]
    table = respond(mllm, conditions, settings=settings, root=root, progress=progress)
    if perplexity:
        places = {request.id: i for i, request in enumerate(requests)}
        asked_again = [requests[places[i]] for i in table["request"]]
        table["perplexity"] = perplexities_stored(mllm, asked_again, list(table["ids"]), batch_size=settings.batch_size, root=root)
        if degeneration.perplexity is None:
            vanilla = table[table["defense"] == "none"] if (table["defense"] == "none").any() else table
            degeneration = replace(degeneration, perplexity=perplexity_limit(list(vanilla["perplexity"])))
    return judged(table, refusal, degeneration)


def respond(
    mllm: MLLM,
    conditions: Sequence[Condition],
    *,
    settings: Settings = DEFAULTS,
    root: Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """The answers of all conditions, one row per condition, seed and request, not judged yet; stored and reused as in `evaluate`.

    Conditions may answer different requests under different seeds, and share batches where their methods allow it.
    Raises InputError for a condition without requests, or with two requests of one id.
    """
    for condition in conditions:
        _check(condition.requests)
    total = sum(len(c.seeds) * len(c.requests) for c in conditions)
    parts, wanted = _parts(mllm, conditions, settings, root)
    todo = sum(len(part.todo) for part in parts)
    with remembering_prompts(mllm), progress_bar(f"answering on {mllm.name}", total, enabled=progress, done=total - todo) as advance:
        _complete_in_turn(mllm, parts, settings, advance)
    tables = [
        _table(index_of(c.requests), [part.lines[key] for key in keys], c.name, seed)
        for c, own in zip(conditions, wanted, strict=True)
        for seed, (part, keys) in zip(c.seeds, own, strict=True)
    ]
    return pd.concat(tables, ignore_index=True).assign(perplexity=math.nan)


def judged(table: pd.DataFrame, refusal: RefusalStrings = REFUSAL, degeneration: Degeneration = DEGENERATION) -> pd.DataFrame:
    """The table with `refused` and `outcome` by other rules; no model is needed."""
    outcomes = [
        outcome(text, ids, refusal=refusal, degeneration=degeneration, perplexity=ppl)
        for text, ids, ppl in zip(table["text"], table["ids"], table["perplexity"], strict=True)
    ]
    return table.assign(outcome=[str(o) for o in outcomes], refused=[o is Outcome.REFUSE for o in outcomes])


@dataclass
class _Part:
    """The answers of one condition under one seed: its store, what it holds, and which requests it lacks."""

    defense: Defense
    requests: Sequence[Request]
    keys: list[str]
    settings: Settings
    """With this part's seed."""
    store: ResponseStore
    lines: dict[str, dict[str, Any]]
    todo: list[int] = field(default_factory=list)

    def take_over(self) -> int:
        """Reads what other workers have stored meanwhile; returns how many of the answers that were lacking are there now."""
        lacking = len(self.todo)
        self.lines = self.store.read()
        self.todo = [i for i in self.todo if self.keys[i] not in self.lines]
        return lacking - len(self.todo)

    def add(self, places: Sequence[int], responses: Sequence[Response], seconds: float) -> None:
        """Store responses to the requests at `places`; `seconds` is what one of them took. Raises InputError for a replaced picture."""
        check_unchanged([self.requests[i] for i in places], [self.keys[i] for i in places])
        records = [record_of(response, self.keys[i], seconds) for i, response in zip(places, responses, strict=True)]
        self.store.add(records)
        self.lines.update({record["key"]: record for record in records})


Wanted = list[list[tuple["_Part", list[str]]]]
"""For every condition and seed the part that holds its answers, and the keys of its requests."""


def _parts(mllm: MLLM, conditions: Sequence[Condition], settings: Settings, root: Path | None) -> tuple[list[_Part], Wanted]:
    """The stores behind the conditions, each with what it lacks, and which of their lines are wanted."""
    parts: dict[Path, _Part] = {}
    wanted: Wanted = []
    for condition in conditions:
        keys = [request.key() for request in condition.requests]
        wanted.append([])
        for seed in condition.seeds:
            asked = seeded(settings, seed)
            store = ResponseStore(response_fields(mllm, condition.defense, asked), root)
            part = parts.get(store.path)
            if part is None:
                part = parts[store.path] = _Part(condition.defense, [], [], asked, store, store.read())
            part.requests, offset = [*part.requests, *condition.requests], len(part.keys)
            part.keys += keys
            known = {part.keys[i] for i in part.todo}
            part.todo += [offset + i for i in missing(keys, part.lines) if keys[i] not in known]
            wanted[-1].append((part, keys))
    return list(parts.values()), wanted


def _complete_in_turn(mllm: MLLM, parts: Sequence[_Part], settings: Settings, tell: Callable[..., None]) -> None:
    """`_complete`, first what no other worker of this run is answering; the rest is waited for, and then mostly there.

    Turns are taken in the order of their keys, and those of the first round are given up before any is waited for: no two workers wait
    for each other.
    """
    left = sorted((part for part in parts if part.todo), key=lambda part: part.store.key)
    for wait in (False, True):
        with ExitStack() as turns:
            ours = [part for part in left if turns.enter_context(part.store.in_turn(wait=wait))]
            if found := sum(part.take_over() for part in ours):
                tell(found)
            if ours:
                _complete(mllm, ours, settings, tell)
        left = [part for part in left if not any(part is own for own in ours)]


def _complete(mllm: MLLM, parts: Sequence[_Part], settings: Settings, tell: Callable[..., None]) -> None:
    """Generates and stores what the parts lack; `tell(n, left=seconds)` whenever n answers have ended."""
    staged = [part for part in parts if part.todo and _staged(part.defense)]
    prepared, apart = [part for part in staged if _prepares(part)], [part for part in parts if not _staged(part.defense)]
    outlook = Outlook()
    outlook.later.update({"prepared": sum(len(part.todo) for part in prepared), "apart": sum(len(part.todo) for part in apart)})

    def told(n: int, in_hand: float | None) -> None:
        outlook.ended += n
        tell(n, left=outlook.left(in_hand))

    _answer_together(mllm, [part for part in staged if not _prepares(part)], settings, told, outlook)
    for some in _by_and_by(prepared, settings.batch_size):
        with outlook.group("prepared", sum(len(part.todo) for part in some)):
            _answer_together(mllm, some, settings, told, outlook)
    for part in apart:
        for places in by_length([part.requests[i] for i in part.todo], settings.batch_size):
            batch = [part.todo[p] for p in places]
            started = time.perf_counter()
            with outlook.group("apart", len(batch)):
                responses = part.defense.respond(mllm, [part.requests[i] for i in batch], part.settings)
                part.add(batch, responses, (time.perf_counter() - started) / len(batch))
            told(len(batch), 0.0)


def _staged(defense: Defense) -> TypeGuard[StagedDefense]:
    return is_staged(type(defense))


def _prepares(part: _Part) -> bool:
    return _staged(part.defense) and part.defense.prepares


def _by_and_by(parts: Sequence[_Part], size: int) -> Iterator[list[_Part]]:
    """Some requests at a time of methods that ask the model before they answer, all seeds together: a kill costs no more than these."""
    together: dict[int, list[_Part]] = {}
    for part in parts:
        together.setdefault(id(part.defense), []).append(part)
    for own in together.values():
        keys = list(dict.fromkeys(part.keys[place] for part in own for place in part.todo))
        for start in range(0, len(keys), size):
            some = set(keys[start : start + size])
            yield [replace(part, todo=[place for place in part.todo if part.keys[place] in some]) for part in own]


def _answer_together(
    mllm: MLLM, parts: Sequence[_Part], settings: Settings, tell: Callable[[int, float | None], None], outlook: Outlook
) -> None:
    """What staged defenses lack, in batches that several of them share; `tell(n, seconds that the answers in hand still take)`."""
    owners: list[tuple[int, int]] = []
    asks: list[Ask] = []
    by_defense: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        by_defense.setdefault(id(part.defense), []).append(number)
        outlook.unreviewed[id(part.defense)] += len(part.todo)
    for numbers in by_defense.values():  # one set of policy and edits for all seeds of a defense
        own = [(number, place) for number in numbers for place in parts[number].todo]
        defense = parts[numbers[0]].defense
        assert isinstance(defense, StagedDefense)
        requests = [parts[number].requests[place] for number, place in own]
        asks += defense.asks(mllm, requests, [parts[number].settings.sampling.seed for number, _ in own], settings)
        owners += own
    pace = Pace(settings.sampling.max_new_tokens)
    options: dict[str, Any] = {"batch_size": settings.batch_size, "explain": settings.explain, "stop": settings.stop}
    answers = answer_asks(mllm, asks, settings.sampling, **options, pace=pace)
    started = time.perf_counter()
    for places, decoded in _gathered(answers, settings.batch_size, lambda n: tell(n, pace.left)):
        share = (time.perf_counter() - started) / len(places)
        mine: dict[int, list[tuple[int, Decoded]]] = {}
        for ask, one in zip(places, decoded, strict=True):
            number, place = owners[ask]
            mine.setdefault(number, []).append((place, one))
        for number, found in mine.items():
            part = parts[number]
            assert isinstance(part.defense, StagedDefense)
            with outlook.reviews(id(part.defense), len(found)):
                responses = part.defense.review(mllm, [response_of(part.requests[i], one) for i, one in found], part.settings)
            part.add([i for i, _ in found], responses, share)
        started = time.perf_counter()


def _gathered(
    answers: Iterable[tuple[list[int], list[Decoded]]], size: int, tell: Callable[[int], None]
) -> Iterator[tuple[list[int], list[Decoded]]]:
    """Answers end one by one; here they come by so many, to be reviewed and written to disk together."""
    places: list[int] = []
    decoded: list[Decoded] = []
    for some, of_them in answers:
        places, decoded = [*places, *some], [*decoded, *of_them]
        tell(len(some))
        if len(places) >= size:
            yield places, decoded
            places, decoded = [], []
    if places:
        yield places, decoded


def perplexities_stored(
    mllm: MLLM, requests: Sequence[Request], answers: Sequence[Sequence[int]], *, batch_size: int = 16, root: Path | None = None
) -> list[float]:
    """`answer_perplexities`, stored beside the answers: each distinct answer to a request is scored once."""
    fields = {**response_fields(mllm, Undefended(), DEFAULTS), "what": "perplexity"}
    for name in ("defense", "sampling", "explain", "stop", "stops"):
        fields.pop(name, None)
    store = ResponseStore(fields, root)
    asked = [request.key() for request in requests]
    keys = [hashlib.sha256(f"{key}{list(ids)}".encode()).hexdigest() for key, ids in zip(asked, answers, strict=True)]
    stored = store.read()
    if not missing(keys, stored):
        return [float(stored[key]["perplexity"]) for key in keys]
    with store.in_turn():
        stored = store.read()  # once more: another worker may have ended meanwhile
        todo = missing(keys, stored)
        empty = [i for i in todo if not len(answers[i])]
        batches = [[todo[p] for p in b] for b in by_answer_length([requests[i] for i in todo], [answers[i] for i in todo], batch_size)]
        for batch in [empty, *batches] if empty else batches:
            found = answer_perplexities(mllm, [requests[i] for i in batch], [answers[i] for i in batch], batch_size=batch_size)
            check_unchanged([requests[i] for i in batch], [asked[i] for i in batch])
            records: list[dict[str, Any]] = [{"key": keys[i], "perplexity": value} for i, value in zip(batch, found, strict=True)]
            store.add(records)
            stored.update({record["key"]: record for record in records})
    return [float(stored[key]["perplexity"]) for key in keys]


def _table(index: pd.DataFrame, lines: Sequence[Mapping[str, Any]], name: str, seed: int) -> pd.DataFrame:
    return index.assign(
        defense=name,
        seed=seed,
        text=pd.Series([line["text"] for line in lines], index=index.index, dtype=object),  # arrow strings refuse half a surrogate pair
        ids=[line["ids"] for line in lines],
        n_tokens=[len(line["ids"]) for line in lines],
        repetition=[repetition_rate(line["ids"]) for line in lines],
        verdict=[line["verdict"] for line in lines],
        steps=[line["steps"] for line in lines],
        seconds=[line["seconds"] for line in lines],
    )


def _by_name(defenses: Sequence[Defense]) -> dict[str, Defense]:
    """Raises UsageError for two of one name, one of which would be left out."""
    names = [defense.name for defense in defenses]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f'two defenses are called "{name}"; give a mapping of names to defenses, with a name for each variant.')
    return dict(zip(names, defenses, strict=True))


def _check(requests: Sequence[Request]) -> None:
    if not requests:
        raise InputError("there is no request to answer; check the data set's name and filters.")
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise InputError(f'two requests are called "{request.id}"; give each its own id, or evaluate the data sets one by one.')
        seen.add(request.id)
