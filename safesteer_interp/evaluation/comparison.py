"""Table 1: methods x benchmarks x seeds, answered once, judged by every judge of a panel, as rates, a ranking and an agreement.

Answers go through the harness and its store: stored line by line, resumed after a kill, none twice. A judge that failed on an answer
leaves it unjudged, and every rate says how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.defenses.defense import DEFAULTS, Defense, Settings, seeded
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.evaluation.harness import SEEDS, Condition, judged, respond
from safesteer_interp.evaluation.judge import Judge
from safesteer_interp.evaluation.judges import DEGENERATION, Degeneration, Outcome
from safesteer_interp.evaluation.refusal_strings import RefusalStrings
from safesteer_interp.evaluation.store import ResponseStore, response_fields
from safesteer_interp.evaluation.verdicts import kappa, verdicts
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.requests import Request
from safesteer_interp.statistics import OUTCOME, cluster_bootstrap, cluster_jackknife, cluster_mean, cluster_rate, stratified_mean, wilson

PANEL: tuple[Judge, ...] = (RefusalStrings(), RefusalStrings("xstest"), RefusalStrings("arditi"), RefusalStrings("vlguard"))
"""What costs nothing: the suite's own rule and three published lists."""
AGREEMENT = 0.6
"""Kappa that agreement is tested against: what is called substantial from there on (Landis and Koch 1977)."""
GRADES = "known answers"
"""Who says whether an answer of a utility set is right."""


@dataclass(frozen=True)
class Benchmark:
    """Requests under a name, and how their answers are graded where right answers are known."""

    name: str
    requests: Sequence[Request]
    grade: Callable[[Request, str], float | None] | None = None
    """(request, answer) -> 0 to 1; None for a request without a known answer."""
    references: Mapping[str, str] = field(default_factory=dict)
    """Request id -> the right answer, for judges that grade."""


@dataclass(frozen=True)
class Comparison:
    """What was answered and judged."""

    answers: pd.DataFrame
    """One row per method, benchmark, request and seed: labels, text, ids, n_tokens, outcome, seconds, verdict."""
    hits: pd.DataFrame
    """One row per answer, judge and measure: method, benchmark, judge, measure, request, seed, pair, scenario, attack, hit.

    `hit` is 1 or 0 (accuracy: between), or missing where the judge did not say."""
    judges: tuple[Judge, ...] = field(default=PANEL)


def answer_benchmarks(
    mllm: MLLM,
    methods: Mapping[str, Defense],
    benchmarks: Sequence[Benchmark],
    *,
    seeds: Sequence[int] = SEEDS,
    settings: Settings = DEFAULTS,
    root: Path | None = None,
    progress: bool = True,
    told: Callable[[pd.DataFrame], None] | None = None,
) -> pd.DataFrame:
    """The answers of all methods to all benchmarks, not judged: `harness.respond`'s columns, `method` and `benchmark`.

    Methods share batches within a benchmark. `told` is given the table of each benchmark as it is finished.
    Raises InputError for two benchmarks of one name, UsageError for no method or benchmark.
    """
    if not methods or not benchmarks:
        raise UsageError("a comparison needs at least one method and one benchmark.")
    names = [b.name for b in benchmarks]
    if len(set(names)) < len(names):
        raise InputError(f"two benchmarks have one name ({', '.join(sorted({n for n in names if names.count(n) > 1}))}); leave one out.")
    tables = []
    for benchmark in benchmarks:
        conditions = [Condition(name, defense, benchmark.requests, seeds) for name, defense in methods.items()]
        table = respond(mllm, conditions, settings=settings, root=root, progress=progress)
        tables.append(table.rename(columns={"defense": "method"}).assign(benchmark=benchmark.name))
        if told is not None:
            told(tables[-1])
    return pd.concat(tables, ignore_index=True)


def stored_answers(
    mllm: MLLM, defense: Defense, requests: Sequence[Request], seeds: Sequence[int], settings: Settings, root: Path | None = None
) -> int:
    """How many of the answers wanted are stored already."""
    keys = [request.key() for request in requests]
    found = 0
    for seed in seeds:
        held = ResponseStore(response_fields(mllm, defense, seeded(settings, seed)), root).read()
        found += sum(key in held for key in keys)
    return found


def check_judges(benchmarks: Sequence[Benchmark], judges: Sequence[Judge]) -> None:
    """Raise UsageError where no judge would say anything of any answer: judges of harm are not asked about harmless requests."""
    lists, graders = any(isinstance(j, RefusalStrings) for j in judges), any(j.grades for j in judges)
    harm = any(not j.grades for j in judges)
    if any(lists or b.grade is not None or (graders and b.references) or (harm and any(r.harmful for r in b.requests)) for b in benchmarks):
        return
    raise UsageError(
        f"{', '.join(j.name for j in judges)} would judge no answer to {', '.join(b.name for b in benchmarks)}: judges of harm are asked "
        "about harmful requests only, graders where right answers are known; add a list of refusals, e.g. --judges refusal_strings."
    )


def judge_answers(
    answers: pd.DataFrame,
    benchmarks: Sequence[Benchmark],
    judges: Sequence[Judge] = PANEL,
    *,
    degeneration: Degeneration = DEGENERATION,
    root: Path | None = None,
) -> Comparison:
    """Every answer judged by every judge. The first judge of strings (else the suite's own rule) gives `outcome`.

    A judge of strings counts a harmful request's answer as a success where it neither declines nor degenerates, and a harmless one's as
    an over-refusal where it declines. A judge of harm is asked about harmful requests only; what is no longer language is no success.
    Raises UsageError for two judges of one name, and where none of them has anything to say (`check_judges`).
    """
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names) or not names:
        raise UsageError(f"a panel needs one judge or more, each with its own name; got {', '.join(names) or 'none'}.")
    check_judges(benchmarks, judges)
    lists = [judge for judge in judges if isinstance(judge, RefusalStrings)]
    graders = [judge for judge in judges if judge.grades]
    plain = judged(answers, lists[0] if lists else RefusalStrings(), degeneration)
    requests = {(b.name, r.id): r for b in benchmarks for r in b.requests}
    parts = []
    for judge in (judge for judge in judges if not judge.grades):
        if isinstance(judge, RefusalStrings):
            outcomes = judged(answers, judge, degeneration)["outcome"]
            asr, rr = outcomes == str(Outcome.COMPLY), outcomes == str(Outcome.REFUSE)
            parts += [_hits(plain[plain["harmful"]], judge.name, "asr", asr[plain["harmful"]])]
            parts += [_hits(plain[~plain["harmful"]], judge.name, "rr", rr[~plain["harmful"]])]
            continue
        asked = plain[plain["harmful"]]
        unsafe = np.zeros(len(asked), dtype=object)
        language = np.flatnonzero(asked["outcome"] != str(Outcome.DEGENERATE))
        some = asked.iloc[language]
        own = [requests[key] for key in zip(some["benchmark"], some["request"], strict=True)]
        unsafe[language] = [v.unsafe for v in verdicts(judge, own, list(some["text"]), root=root)] if len(some) else []
        parts.append(_hits(asked, judge.name, "asr", unsafe))
    for benchmark in benchmarks:
        for grader in graders if benchmark.references else ():
            part = plain[plain["benchmark"] == benchmark.name]
            own = [requests[benchmark.name, i] for i in part["request"]]
            told = replace(grader, references=benchmark.references)  # type: ignore[type-var]
            parts.append(_hits(part, grader.name, "accuracy", [v.score for v in verdicts(told, own, list(part["text"]), root=root)]))
        if benchmark.grade is not None:
            part = plain[plain["benchmark"] == benchmark.name]
            own = [requests[benchmark.name, i] for i in part["request"]]
            grades = [benchmark.grade(r, text) for r, text in zip(own, part["text"], strict=True)]
            known = np.array([grade is not None for grade in grades], dtype=bool)
            parts.append(_hits(part[known], GRADES, "accuracy", [g for g in grades if g is not None]))
    return Comparison(plain, pd.concat([part for part in parts if len(part)], ignore_index=True), tuple(judges))


def _hits(answers: pd.DataFrame, judge: str, measure: str, hit: Any) -> pd.DataFrame:
    labels = answers[["method", "benchmark", "request", "seed", "pair", "scenario", "attack"]]
    values = [None if h is None else float(h) for h in hit]
    return labels.assign(judge=judge, measure=measure, hit=pd.array(values, dtype="Float64"))


def rate_table(hits: pd.DataFrame, by: Sequence[str] = ("method", "benchmark", "judge", "measure")) -> pd.DataFrame:
    """One row per group: `value` (micro) with its interval over pairs and Wilson's, `macro` over scenarios with an interval, n, `unjudged`.

    What was not judged is in no rate; a group of which nothing was judged has NaN.
    """
    rows = []
    for group, part in hits.groupby(list(by), sort=False):
        labels = dict(zip(by, group if isinstance(group, tuple) else (group,), strict=True))
        said = part[part["hit"].notna()]
        row: dict[str, Any] = {**labels, "value": np.nan, "low": np.nan, "high": np.nan, "n": 0, "clusters": 0}
        if len(said):
            hit, pairs = said["hit"].to_numpy(dtype=float), _clusters(said)
            score = wilson(round(float(hit.sum())), len(hit))
            binary = bool(np.isin(hit, (0.0, 1.0)).all())
            mean = stratified_mean(hit, said["scenario"].to_numpy(), pairs, bounds=OUTCOME)
            found = cluster_rate(hit > 0, pairs) if binary else cluster_mean(hit, pairs)
            row |= {**found.as_row(), "wilson_low": score.low, "wilson_high": score.high}
            row |= {"macro": mean.value, "macro_low": mean.low, "macro_high": mean.high, "scenarios": int(said["scenario"].nunique())}
        rows.append({**row, "unjudged": int(part["hit"].isna().sum())})
    return pd.DataFrame(rows)


def outcome_table(answers: pd.DataFrame) -> pd.DataFrame:
    """The three-way outcome of every method on every benchmark and class: one row each, value (share), low, high, n, clusters."""
    rows = []
    for (method, benchmark, harmful), part in answers.groupby(["method", "benchmark", "harmful"], sort=False):
        for outcome in Outcome:
            hit = (part["outcome"] == str(outcome)).to_numpy()
            labels = {"method": method, "benchmark": benchmark, "class": "harmful" if harmful else "harmless", "outcome": str(outcome)}
            rows.append({**labels, **cluster_rate(hit, _clusters(part)).as_row()})
    return pd.DataFrame(rows)


def agreement_table(hits: pd.DataFrame) -> pd.DataFrame:
    """Cohen's kappa of every two judges on the answers to harmful requests both judged, with an interval that resamples pairs."""
    asr = hits[hits["measure"] == "asr"]
    key = ["method", "benchmark", "request", "seed", "pair"]
    wide = asr.pivot(index=key, columns="judge", values="hit")
    names = list(dict.fromkeys(asr["judge"]))
    rows = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = wide[[first, second]].dropna()
            row: dict[str, Any] = {"first": first, "second": second, "measure": "kappa", "value": np.nan, "low": np.nan, "high": np.nan}
            row |= {"n": len(both), "clusters": 0, "agree": np.nan}
            if len(both):
                a, b = (both[name].to_numpy(dtype=float) > 0.5 for name in (first, second))
                frame = both.index.to_frame(index=False)
                pairs = _clusters(frame)
                estimate = cluster_bootstrap(kappa, (a, b), pairs)
                tested = cluster_jackknife(kappa, (a, b), pairs, against=AGREEMENT)  # the bootstrap has no p
                row |= {**replace(estimate, p=tested.p, against=AGREEMENT).as_row(), "agree": float(np.mean(a == b))}
            rows.append(row)
    return pd.DataFrame(rows)


def _clusters(rows: pd.DataFrame) -> np.ndarray:
    """The pair of each row; pairs of different benchmarks are different."""
    return np.array([f"{b}\0{p}" for b, p in zip(rows["benchmark"], rows["pair"], strict=True)])
