"""The results of a comparison: its tables, the plane of what is let through against what is refused for nothing, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from safesteer_interp.evaluation.comparison import Benchmark, Comparison, agreement_table, outcome_table, rate_table
from safesteer_interp.evaluation.ranking import agreed, pairwise, tiers
from safesteer_interp.evaluation.refusal_strings import RefusalStrings
from safesteer_interp.files import safe_name, write_bytes, write_json
from safesteer_interp.requests import Request

RATES = {"asr": "not refused", "rr": "over-refusal", "accuracy": "accuracy"}
"""Measure -> what tables call it under a judge of strings; under a judge of harm `asr` is attack success."""


@dataclass(frozen=True)
class Results:
    """Everything that follows from the judged answers."""

    model: str
    rates: pd.DataFrame
    """By method, benchmark, judge and measure: micro value, macro over scenarios, intervals, n, unjudged; benchmark "all" pools them."""
    outcomes: pd.DataFrame
    comparisons: pd.DataFrame
    """Every two methods under every judge, Holm-adjusted."""
    orders: pd.DataFrame
    """Which of every two methods is lower by all judges."""
    agreement: pd.DataFrame
    """Kappa of every two judges."""
    costs: pd.DataFrame | None
    answers: pd.DataFrame
    verdicts: pd.DataFrame
    """One row per answer and judge."""
    requests: Mapping[tuple[str, str], Request]
    methods: Mapping[str, Mapping[str, Any]]
    """What each method is made of."""
    harm: tuple[str, ...] = ()
    """Names of the judges that say whether harm was done: all but those of strings and those that grade."""

    @classmethod
    def of(
        cls,
        model: str,
        comparison: Comparison,
        benchmarks: Sequence[Benchmark],
        costs: pd.DataFrame | None = None,
        methods: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Results:
        """From judged answers."""
        hits = comparison.hits
        rates = [rate_table(hits)]
        if len(benchmarks) > 1:
            rates.append(rate_table(hits, ("method", "judge", "measure")).assign(benchmark="all"))
        compared = pairwise(hits)
        return cls(
            model,
            pd.concat(rates, ignore_index=True),
            outcome_table(comparison.answers),
            compared,
            agreed(compared) if len(compared) else pd.DataFrame(),
            agreement_table(hits),
            costs,
            comparison.answers,
            hits,
            {(b.name, r.id): r for b in benchmarks for r in b.requests},
            methods or {},
            tuple(judge.name for judge in comparison.judges if not (isinstance(judge, RefusalStrings) or judge.grades)),
        )

    @property
    def judge(self) -> str:
        """The first judge of the panel."""
        return str(self.verdicts["judge"].iloc[0])

    @property
    def names(self) -> list[str]:
        """The methods, in the order they were given."""
        return list(dict.fromkeys(self.answers["method"]))

    def plane(self, judge: str = "") -> pd.DataFrame:
        """One row per method over all benchmarks: asr and rr under a judge with intervals, and whether no other method beats it on both."""
        judge = judge or self.judge
        whole = "all" if "all" in set(self.rates["benchmark"]) else self.rates["benchmark"].iloc[0]
        table = self.rates[(self.rates["judge"] == judge) & (self.rates["benchmark"] == whole)]
        rows = []
        for name in self.names:
            row: dict[str, Any] = {"method": name}
            for measure in ("asr", "rr"):
                found = table[(table["method"] == name) & (table["measure"] == measure)]
                values = found[["value", "low", "high"]].iloc[0] if len(found) else [np.nan] * 3
                row |= dict(zip((measure, f"{measure}_low", f"{measure}_high"), map(float, values), strict=True))
            rows.append(row)
        points = [(row["asr"], row["rr"]) for row in rows]
        for row, (a, b) in zip(rows, points, strict=True):
            row["front"] = np.isfinite(a + b) and not any(c <= a and d <= b and (c < a or d < b) for c, d in points)
        return pd.DataFrame(rows)

    def printed(self) -> dict[str, pd.DataFrame]:
        """Tables for people, by title, cells as text."""
        found = {f'{self.model}: not refused of harmful | refused of harmless, by "{self.judge}", in %': self._table_one()}
        judges = list(dict.fromkeys(self.verdicts["judge"]))
        if len(judges) > 1:
            found["by every judge, all benchmarks, in %"] = self._by_judge(judges)
        if len(self.orders):
            held = self.orders[self.orders["lower"] != ""]
            lines = [
                (RATES.get(r["measure"], r["measure"]), r["lower"], r["second"] if r["lower"] == r["first"] else r["first"], r["pairs"])
                for _, r in held.iterrows()
            ]
            found["orders that hold under every judge"] = pd.DataFrame(lines, columns=["measure", "lower", "than", "pairs"])
        if len(self.agreement):
            told = self.agreement.assign(kappa=[_interval(r, 2) for _, r in self.agreement.iterrows()])
            found["agreement of the judges"] = told[["first", "second", "kappa", "n"]]
        if self.costs is not None:
            rounded = self.costs.round({"forwards": 1, "tokens_read": 1, "tokens_written": 1, "forwards_per_token": 2})
            found["cost of an answer (forwards, tokens)"] = rounded.round(2)
        return found

    def _table_one(self) -> pd.DataFrame:
        table = self.rates[self.rates["judge"].isin((self.judge, "known answers"))]
        places = tiers(self.orders, self.names) if len(self.orders) else {}
        rows = []
        for name in self.names:
            row: dict[str, Any] = {"method": name, "place": places.get(name, "")}
            for benchmark in dict.fromkeys(table["benchmark"]):
                cells = []
                for measure in RATES:
                    found = table[(table["method"] == name) & (table["benchmark"] == benchmark) & (table["measure"] == measure)]
                    if len(found):
                        cells.append(_percent(found.iloc[0]) + (" right" if measure == "accuracy" else ""))
                row[benchmark] = " | ".join(cells)
            rows.append(row)
        return pd.DataFrame(rows)

    def _by_judge(self, judges: Sequence[str]) -> pd.DataFrame:
        whole = "all" if "all" in set(self.rates["benchmark"]) else self.rates["benchmark"].iloc[0]
        rows = []
        for name in self.names:
            row: dict[str, Any] = {"method": name}
            for judge in judges:
                if judge == "known answers":
                    continue
                table = self.rates[(self.rates["method"] == name) & (self.rates["benchmark"] == whole) & (self.rates["judge"] == judge)]
                row[judge] = " | ".join(_percent(r) for m in ("asr", "rr") for _, r in table[table["measure"] == m].iterrows())
            rows.append(row)
        return pd.DataFrame(rows)

    def record(self) -> dict[str, Any]:
        """Everything but the answers, JSON-ready."""
        tables = {"rates": self.rates, "orders": self.orders, "agreement": self.agreement, "costs": self.costs}
        found = {name: table.to_dict("records") for name, table in tables.items() if table is not None}
        return {"model": self.model, "methods": self.methods, "plane": self.plane().to_dict("records"), **found}

    def save(self, out: Path, label: str = "") -> Path:
        """Writes the tables as CSV and the answers as JSON lines into OUT/<model>, each file whole or not at all; returns the folder.

        `label` stands for the model's name where two models may share one.
        """
        folder = out / safe_name(label or self.model)
        tables = {"rates": self.rates, "outcomes": self.outcomes, "ranking": self.comparisons, "orders": self.orders}
        tables |= {"agreement": self.agreement, "plane": self.plane()}
        if self.costs is not None:
            tables["costs"] = self.costs
        for name, table in tables.items():
            write_bytes(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace"))
        write_bytes(folder / "answers.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in self.answer_rows()))
        write_json(folder / "methods.json", {name: {k: str(v) for k, v in made.items()} for name, made in self.methods.items()})
        return folder

    def answer_rows(self) -> list[dict[str, Any]]:
        """One record per answer, for viewers: labels, the request's text, the answer, its outcome, and what every judge said of it.

        `verdicts`: judge -> 1, 0, or null where it did not say; of a harmful request whether the attack succeeded, of a harmless one
        whether it was refused. `unsafe`: whether any judge of harm said that the attack succeeded. Written with every character beyond
        ASCII escaped, so that no text can break a line or an encoding.
        """
        key = ["method", "benchmark", "request", "seed"]
        said: dict[tuple[Any, ...], dict[str, float | None]] = {}
        graded = self.verdicts
        for row in graded[[*key, "judge", "hit"]].itertuples(index=False):
            said.setdefault(tuple(row[:4]), {})[row[4]] = None if pd.isna(row[5]) else float(row[5])
        rows = []
        for answer in self.answers.to_dict("records"):
            request = self.requests[answer["benchmark"], answer["request"]]
            labels = {name: answer[name] for name in (*key, "pair", "scenario", "attack", "harmful", "outcome", "n_tokens")}
            shown = {"text": request.text, "intent": request.intent, "image": None if request.image is None else request.image.label}
            verdicts = said.get(tuple(answer[name] for name in key), {})
            rows.append(
                {
                    "model": self.model,
                    **{name: _plain(value) for name, value in labels.items()},
                    **shown,
                    "answer": answer["text"],
                    "verdicts": verdicts,
                    "unsafe": any(verdicts.get(judge) for judge in self.harm),
                    "decided": answer["verdict"],
                }
            )
        return rows


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _percent(row: Any) -> str:
    """ "34 [28, 41]", with the number of answers that were not judged behind it."""
    if not np.isfinite(row["value"]):
        return f"– ({int(row['unjudged'])} unjudged)"
    bounds = "" if not np.isfinite(row["low"]) else f" [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"
    return f"{100 * row['value']:.0f}{bounds}" + (f" ({int(row['unjudged'])} unjudged)" if row["unjudged"] else "")


def _interval(row: Any, digits: int) -> str:
    if not np.isfinite(row["value"]):
        return "–"
    return f"{row['value']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
