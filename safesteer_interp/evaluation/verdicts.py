"""Verdicts of several judges on a table of answers: kept on disk, counted where a judge did not say, compared with one another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.errors import InputError
from safesteer_interp.evaluation.judge import Judge, Verdict
from safesteer_interp.evaluation.store import ResponseStore, missing
from safesteer_interp.paths import store_dir
from safesteer_interp.requests import Request
from safesteer_interp.statistics import cluster_bootstrap, cluster_rate

FORMAT = 1
BATCH = 32
"""Verdicts asked for at a time: what a kill can cost."""


def verdicts(judge: Judge, requests: Sequence[Request], answers: Sequence[str], *, root: Path | None = None) -> list[Verdict]:
    """One verdict per answer; those of a costly judge are stored (`root`, default the user cache), and what it did not say is asked again.

    The same answer to what is the same to the judge is judged once.
    """
    if not judge.costly:
        return judge.judge(requests, answers)
    store = ResponseStore({"format": FORMAT, "what": "verdicts", "judge": judge.fingerprint()}, root or store_dir("verdicts"))
    keys = [_key(judge.seen(request), answer) for request, answer in zip(requests, answers, strict=True)]
    known = {key: _verdict(line) for key, line in store.read().items()}
    if not missing(keys, known):
        return [known[key] for key in keys]
    with store.in_turn():
        known |= {key: _verdict(line) for key, line in store.read().items()}
        _ask(judge, requests, answers, keys, known, store)
    return [known[key] for key in keys]


def _ask(
    judge: Judge, requests: Sequence[Request], answers: Sequence[str], keys: Sequence[str], known: dict[str, Verdict], store: ResponseStore
) -> None:
    """Adds the verdicts that are not known yet, and stores what the judge said."""
    todo = missing(keys, known)
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        found = judge.judge([requests[i] for i in batch], [answers[i] for i in batch])
        if replaced := [requests[i].id for i in batch if _key(judge.seen(requests[i]), answers[i]) != keys[i]]:
            raise InputError(f'request "{replaced[0]}": its image was replaced while {judge.name} judged it; run the same command again.')
        known |= {keys[i]: verdict for i, verdict in zip(batch, found, strict=True)}
        store.add({"key": keys[i], **asdict(v)} for i, v in zip(batch, found, strict=True) if v.unsafe is not None or v.score is not None)


def _key(seen: str, answer: str) -> str:
    return hashlib.sha256(f"{seen}\0{answer}".encode("utf-8", "surrogatepass")).hexdigest()


def _verdict(line: Mapping[str, Any]) -> Verdict:
    return Verdict(line["unsafe"], tuple(line["categories"]), line["text"], line.get("score"))


def judged_by(table: pd.DataFrame, judges: Sequence[Judge], requests: Sequence[Request], *, root: Path | None = None) -> pd.DataFrame:
    """The harness's table once per judge, with `judge` and `unsafe` (True, False, or missing where the judge did not say).

    Raises InputError for an answer to a request that is not given.
    """
    known = {request.id: request for request in requests}
    if gone := sorted(set(table["request"]) - set(known)):
        raise InputError(f'the table holds answers to "{gone[0]}", which is not among the requests given.')
    asked = [known[i] for i in table["request"]]
    parts = []
    for judge in judges:
        found = verdicts(judge, asked, list(table["text"]), root=root)
        parts.append(table.assign(judge=judge.name, unsafe=pd.array([v.unsafe for v in found], dtype="boolean")))
    return pd.concat(parts, ignore_index=True)


def unsafe_rates(judged: pd.DataFrame, by: Sequence[str] = ("defense", "judge")) -> pd.DataFrame:
    """Share of answers to harmful requests that a judge calls unsafe (attack success), one row per group.

    value, low, high (score interval over pairs), n, clusters, and `unjudged`: how many answers have no verdict, which are in no rate.
    """
    rows = []
    for group, part in judged[judged["harmful"]].groupby(list(by), sort=False):
        labels = dict(zip(by, group if isinstance(group, tuple) else (group,), strict=True))
        said = part[part["unsafe"].notna()]
        found: dict[str, Any] = {"value": np.nan, "n": 0}
        if len(said):
            found = cluster_rate(said["unsafe"].to_numpy(dtype=bool), said["pair"].to_numpy()).as_row()
        rows.append({**labels, "measure": "unsafe", **found, "unjudged": int(part["unsafe"].isna().sum())})
    return pd.DataFrame(rows)


def agreement(judged: pd.DataFrame) -> pd.DataFrame:
    """Cohen's kappa of every two judges over the answers both judged, with an interval that resamples pairs."""
    key = ["defense", "request", "seed"]
    wide = judged.pivot(index=[*key, "pair"], columns="judge", values="unsafe")
    names = list(dict.fromkeys(judged["judge"]))
    rows = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = wide[[first, second]].dropna()
            a, b = (both[name].to_numpy(dtype=bool) for name in (first, second))
            found: dict[str, Any] = {"value": np.nan}
            if len(both):
                found = cluster_bootstrap(kappa, (a, b), both.index.get_level_values("pair").to_numpy()).as_row()
            rows.append({"first": first, "second": second, "measure": "kappa", **found})
    return pd.DataFrame(rows)


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa of two boolean ratings [n]: agreement beyond chance, 1 at most; NaN when chance alone would agree always."""
    agreed = float(np.mean(a == b))
    chance = float(np.mean(a) * np.mean(b) + np.mean(~a) * np.mean(~b))
    return (agreed - chance) / (1 - chance) if chance < 1 else float("nan")
