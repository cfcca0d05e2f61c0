"""What `safesteer replicate` does, part by part: methods fitted, `compare` and `run` driven, speeds measured, the page written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from safesteer_interp import files, runner
from safesteer_interp.cli.compare import Compare
from safesteer_interp.cli.comparing import Work
from safesteer_interp.cli.replication_inputs import REFUSALS, Given, panel
from safesteer_interp.cli.run import render_folder
from safesteer_interp.cli.run_flags import overrides
from safesteer_interp.content_digest import loaded_digest
from safesteer_interp.datasets.dataset import USUAL
from safesteer_interp.defenses.defense import Settings
from safesteer_interp.defenses.registry import Choice, defense_named
from safesteer_interp.errors import InputError, NotApplicableError, SafeSteerError
from safesteer_interp.evaluation.judge import Judge
from safesteer_interp.evaluation.refusal_strings import RefusalStrings
from safesteer_interp.evaluation.throughput import throughput
from safesteer_interp.models.special_tokens import further_stops
from safesteer_interp.probes.fitting import training_plan
from safesteer_interp.probes.token_spec import TOKENS
from safesteer_interp.replication import cells, findings, protocol, readiness
from safesteer_interp.replication.estimate import VERDICT_TOKENS, Part, Speed, Taken, cost
from safesteer_interp.replication.page import Page
from safesteer_interp.report.results import Results
from safesteer_interp.requests import Attack, Request
from safesteer_interp.runner.folders import model_label, thinking_label
from safesteer_interp.runner.schedule import PlanReport
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.tracing.store import Store
from safesteer_interp.tracing.tracer import Sampling

if TYPE_CHECKING:
    from safesteer_interp.cli.replicate import Replicate
    from safesteer_interp.models.mllm import MLLM

NO_SETTING = ("dry_run", "json", "only", "gpu_hour_price", "gpus", "tokens_per_second", "out")
"""Flags that change nothing that is measured: what was measured with others is taken over."""
REPEATS = 3
"""Rounds that speeds are measured in, besides one that warms up."""
_BREAD = Request("How do I bake bread?", id="bread")


@dataclass
class Replication:
    """One replication: what was asked for, the model, and what of the paper's data was found."""

    asked: Replicate
    mllm: MLLM
    judges: tuple[Judge, ...]
    """Of harm, the first one's verdicts in the tables; then the list of refusals, and the grader."""
    harm: str
    """Name of the judge that fills the tables."""
    given: Given

    @classmethod
    def of(cls, asked: Replicate) -> Replication:
        """Judges, then the model, then the data. Raises InputError or UsageError for what cannot be had at all."""
        from safesteer_interp.models import load_model

        judges, harm = panel(asked)
        mllm = load_model(asked.model, system_prompt=asked.system_prompt, **asked.loading.arguments())
        if mllm.known_answer:
            raise InputError(f'"{mllm.name}" is a fixture with known answers, and nothing found on it is a finding; give a real model.')
        return cls(asked, mllm, judges, harm, Given.find(asked, mllm))

    @property
    def image_form(self) -> str:
        """The attack whose shift from CB is MSAV: SD as in the paper, where there are such pictures to fit on."""
        return str(Attack.SD if any(r.attack is Attack.SD for r in self.given.fit) else Attack.TYPO)

    def methods(self, *, ablations: bool = False) -> dict[str, Choice]:
        """Those of Table 1, or those that Table 3 has besides."""
        rule, form = self.asked.rule, self.image_form
        if ablations:
            return {n: defense_named(protocol.safesteer_named(rule, form, **o)) for n, o in protocol.ABLATIONS.items()}
        named = {name: defense_named(name) for name in protocol.BASELINES}
        return {**named, protocol.SAFESTEER: defense_named(protocol.safesteer_named(rule, form))}

    def deviations(self) -> list[str]:
        """Every way in which this is not the paper's run."""
        a = self.asked
        harm = tuple(j.kind for j in self.judges if not (j.grades or isinstance(j, RefusalStrings)))
        chosen = protocol.Choices(
            a.rule, harm, self.harm if harm else "", a.grader, a.system_prompt, a.seeds, a.items, a.max_new_tokens, a.profile,
            "" if self.session.dataset == USUAL else a.figures_data, a.loading.quant,
        )  # fmt: skip
        return protocol.deviations(chosen, self.mllm.name, self.mllm.layout.family, tuple(self.given.deviations))

    @cached_property
    def session(self) -> Session:
        """The run of the findings behind the figures, on the model that is loaded."""
        a = self.asked
        settings = RunSettings(model=a.model, data=a.figures_data, data_root=a.data_root, store=a.store, dtype=a.loading.dtype)
        return Session(settings, loaded_model=self.mllm)

    @property
    def folder(self) -> Path:
        m = self.mllm
        return self.asked.out / files.safe_name(model_label(m.name, m.source, m.fingerprint) + thinking_label(m.thinking))

    @cached_property
    def speed(self) -> Speed:
        """Given, or measured by a short run."""
        if self.asked.tokens_per_second is not None:
            return Speed.given(self.asked.tokens_per_second)
        some = [r for b in self.given.benchmarks for r in b.requests] or self.given.fit
        plain = {name: choice.build(self.mllm) for name, choice in self.methods().items() if not choice.trained}
        return Speed.measured(self.mllm, some[:: max(1, len(some) // 64)], self.asked.batch_size, plain, self.asked.max_new_tokens)

    def _compare(self, defenses: Sequence[str]) -> Compare:
        a = self.asked
        return Compare(
            model=a.model, defenses=tuple(defenses), data_root=a.data_root, seeds=a.seeds, pairs=a.items, training=self.given.training,
            training_pairs=a.training_pairs, max_new_tokens=a.max_new_tokens, temperature=protocol.TEMPERATURE,
            batch_size=a.batch_size, cost_sample=0, out=self.folder / "comparison",
        )  # fmt: skip

    def table_work(self, *, ablations: bool = False) -> Work | None:
        """Methods x benchmarks of Table 1, or of what Table 3 has besides; None where none of the benchmarks is there."""
        given = [b for b in self.given.benchmarks if not ablations or b.name == protocol.MM_SAFETYBENCH]
        methods = self.methods(ablations=ablations)
        return Work(self._compare(("all",)), self.mllm, given, self.judges, methods, least=1) if given else None

    def _wanted(self, part: str) -> bool:
        return not self.asked.only or part in self.asked.only

    def ready(self) -> list[readiness.Ready]:
        """Model, data, judges, memory, disk, licences: a line each."""
        from safesteer_interp.datasets.registry import DATASETS

        m, a, Ready = self.mllm, self.asked, readiness.Ready
        lines = [Ready("model", True, f"{m!r}; licence: {readiness.licence_of(a.model, m.source if Path(m.source).is_dir() else '')}")]
        names = {c.benchmark: c.data[0][0].partition(":")[0] for c in protocol.COLUMNS_OF_TABLE_1}
        licences = {name: DATASETS[own].licence for name, own in names.items()}
        lines += [Ready(b.name, True, f"{len(b.requests)} requests; licence: {licences[b.name]}") for b in self.given.benchmarks]
        lines.append(Ready("training", True, f"{len(self.given.fit)} requests of {self.given.training}"))
        lines += [self._asked(judge) for judge in self.judges if judge.costly and not judge.grades]
        some = [r for b in self.given.benchmarks for r in b.requests][:8] or self.given.fit[:8]
        lines.append(readiness.memory(m, a.batch_size, int(m.encode(some).input_ids.shape[1]), a.max_new_tokens))
        planned, answers = self.figures_plan, sum(part.answers for part in self.parts)
        root = self.session.settings.traces
        lines.append(readiness.disk(root, planned.n_bytes if planned else 0, answers))
        return lines

    def _asked(self, judge: Judge) -> readiness.Ready:
        """Whether a judge answers at all: it is asked about bread."""
        licence = readiness.licence_of(str(getattr(judge, "model", "")))
        try:
            said = judge.judge([_BREAD], ["Mix flour, water, salt and yeast, let it rise, and bake it."])[0]
        except SafeSteerError as cause:
            return readiness.Ready(f"judge {judge.name}", False, f"{cause} Or take others with --judges (`safesteer list judges`).")
        ok = said.unsafe is not None
        told = "answers" if ok else f'gives no verdict ("{said.text[:60]}"); take another with --judges'
        return readiness.Ready(f"judge {judge.name}", ok, f"{told}; licence: {licence}")

    @cached_property
    def parts(self) -> list[Part]:
        """What is still to be done, part by part; fitted methods' answers are taken as missing."""
        return [part for part in self._parts() if self._wanted(part.name)]

    def _parts(self) -> list[Part]:
        speed, tokens, a = self.speed, self.asked.max_new_tokens, self.asked
        planned = training_plan(self.mllm, self.given.fit, store=Store(a.store) if a.store else "default")
        n = planned.n_requests - planned.n_stored
        parts = [Part("fit", passes=n, tokens=n * TOKENS.max_new_tokens, seconds=n * speed.answer(TOKENS.max_new_tokens))]
        parts += [self._table_part("table1"), self._table_part("table3")]
        rows = a.speed_requests * (REPEATS + 1)
        done = set(self.methods()) <= set(self._kept_speeds()["defense"])
        n = 0 if done else rows * len(self.methods())
        seconds = 0.0 if done else sum(rows * speed.times(m) * speed.answer(tokens) for m in self.methods())
        parts.append(Part("table2", passes=n, answers=n, tokens=n * tokens, seconds=seconds))
        figures = self.figures_plan
        return [*parts, *([findings.work("figures", figures, speed, a.profile)] if figures is not None else [])]

    def _table_part(self, name: str) -> Part:
        """Answers and verdicts of one table that are not stored."""
        work, tokens = self.table_work(ablations=name == "table3"), self.asked.max_new_tokens
        if work is None:
            return Part(name)
        missing, asked = work.missing(), [r for b in work.benchmarks for r in b.requests]
        n, costly = sum(missing.values()), sum(judge.costly and not judge.grades for judge in self.judges)
        verdicts = round(n * costly * sum(r.harmful for r in asked) / len(asked))
        seconds = sum(count * self.speed.times(method) * self.speed.answer(tokens) for method, count in missing.items())
        return Part(name, n, n, n * tokens, verdicts, seconds + verdicts * VERDICT_TOKENS * self.speed.token)

    @cached_property
    def figures_plan(self) -> PlanReport | None:
        """The traces that the findings behind the figures lack."""
        return runner.plan(list(protocol.FIGURES), **self._figures_arguments()) if self._wanted("figures") else None

    def _figures_arguments(self) -> dict[str, Any]:
        return {
            "profile": self.asked.profile,
            "out": self.folder / "figures",
            "overrides": overrides(self.asked.set),
            "session": self.session,
        }

    def run(self, parts: Sequence[Part]) -> tuple[Path, dict[str, Any]]:
        """All parts in order, each timed, and the page; of what cannot be made the page says why."""
        asked = {name: str(value) for name, value in self.asked.__dict__.items() if name not in NO_SETTING}
        stops = further_stops(self.mllm)
        key = {"model": self.mllm.fingerprint, "asked": asked, **({"stops": stops} if stops else {})}
        taken = Taken.read(self.folder / "taken.json", files.digest(key))
        taken.plan(parts)
        training = taken.time("fit", lambda: self._fit(taken)) if self._wanted("fit") else {}
        tables = {name: self._answered(name, taken) for name in ("table1", "table3") if self._wanted(name)}
        speeds = taken.time("table2", self._speeds) if self._wanted("table2") else pd.DataFrame()
        if self._wanted("figures"):
            report = taken.time("figures", lambda: runner.run(list(protocol.FIGURES), render=render_folder, **self._figures_arguments()))
            self.given.missing += [
                f"{protocol.FIGURES[r.id]} ({r.id}): {r.reason}" for r in report.results if r.status in ("failed", "skipped")
            ]
        return self._page(tables, speeds, training, taken)

    def _fit(self, taken: Taken) -> dict[str, float]:
        """Hours that each trained method took to fit, of the first time it was finished and of those it was stopped before."""
        entry = taken.parts["fit"]
        hours, spent = entry.setdefault("training", {}), entry.setdefault("spent", {})
        for name in [name for name, choice in self.methods().items() if choice.trained and name not in hours]:
            begun = time.monotonic()
            try:
                self.methods()[name].build(self.mllm, self.given.fit)
            except SafeSteerError as cause:
                self.given.missing.append(f"{name}: {cause}")
                continue
            finally:
                spent[name] = spent.get(name, 0.0) + (time.monotonic() - begun) / 3600
            hours[name] = spent[name]
            taken.write()
        return dict(hours)

    def _answered(self, name: str, taken: Taken) -> pd.DataFrame:
        """The verdicts of one table's answers, written into comparison/<table>; empty without benchmarks."""
        work = self.table_work(ablations=name == "table3")
        if work is None:
            return pd.DataFrame()
        try:
            results = taken.time(name, work.results)
        except NotApplicableError as cause:
            if not work.left_out:  # where no method is left, each says why
                self.given.missing.append(f"{name}: {cause}")
            return pd.DataFrame()
        finally:
            self.given.missing += [f"{method}: {cause}" for method, cause in work.left_out.items()]
        results.save(self.folder / "comparison", name)
        found: pd.DataFrame = results.verdicts
        return found

    def _speed_settings(self) -> tuple[list[Request], str]:
        """The requests that speeds are measured on, and a digest of all that they depend on."""
        a, m, given = self.asked, self.mllm, self.given
        some = ([r for b in given.benchmarks for r in b.requests if r.harmful] or given.fit)[: a.speed_requests]
        made = {
            name: [[part.name, loaded_digest(part.cls), {k: str(v) for k, v in part.options.items()}] for part in choice.parts]
            for name, choice in self.methods().items()
        }
        settings = {
            "model": m.fingerprint, "loading": str(a.loading), "device": str(m.device), "system prompt": m.system_prompt,
            "thinking": m.thinking, "methods": made, "requests": [r.key() for r in some], "fit": [r.key() for r in given.fit],
            "tokens": a.max_new_tokens, "temperature": protocol.TEMPERATURE, "batch": a.batch_size, "repeats": REPEATS,
            "code": loaded_digest(throughput),
        }  # fmt: skip
        return some, files.digest(settings)

    def _kept_speeds(self) -> pd.DataFrame:
        """The speeds that lie there of the same settings; none of others."""
        try:
            found = pd.read_csv(self.folder / "throughput.csv")
            return found[found["settings"] == self._speed_settings()[1]]
        except (OSError, ValueError, KeyError):
            return pd.DataFrame(columns=["defense"])

    def _speeds(self) -> pd.DataFrame:
        """Tokens per second of every method that can be had, kept: times of another day would not be those of the page.

        All are timed together, so that where one that can be had is not among the kept all are timed anew.
        """
        kept = self._kept_speeds()
        if set(self.methods()) <= set(kept["defense"]):
            return kept
        built = {}
        for name, choice in self.methods().items():
            try:
                built[name] = choice.build(self.mllm, self.given.fit if choice.trained else ())
            except SafeSteerError as cause:
                self.given.missing.append(f"{name}: {cause}")
        if set(built) <= set(kept["defense"]):
            return kept
        some, key = self._speed_settings()
        settings = Settings(Sampling(self.asked.max_new_tokens, protocol.TEMPERATURE), batch_size=self.asked.batch_size)
        table = throughput(self.mllm, built, some, settings=settings, repeats=REPEATS).assign(settings=key)
        files.write_text(self.folder / "throughput.csv", table.to_csv(index=False, lineterminator="\n"))
        return table

    def _page(
        self, tables: dict[str, pd.DataFrame], speeds: pd.DataFrame, training: dict[str, float], taken: Taken
    ) -> tuple[Path, dict[str, Any]]:
        from safesteer_interp.evaluation.comparison import rate_table

        stands = protocol.printed_model(self.mllm.layout.family)
        hits = [table for table in tables.values() if len(table)]
        both = pd.concat(hits, ignore_index=True) if hits else pd.DataFrame(columns=["benchmark", "measure"])
        first = tables.get("table1", pd.DataFrame())
        rows = cells.table_1(rate_table(first) if len(first) else pd.DataFrame(), stands, self.harm, REFUSALS.name)
        rows += cells.table_2(speeds, training, stands) + cells.table_3(both, stands, self.harm)
        figures = self.folder / "figures"
        claimed = Results(figures) if any(figures.glob("*/*/claims.json")) else None
        measured = claimed.measured_in(self.session.place, self.mllm.fingerprint) if claimed else ""
        items = [
            r for r in (claimed.replication(measured) if claimed else []) if r.item.key.startswith(("Fig.", "section")) and r.item.says
        ]
        page = Page(
            self.mllm.name, stands, self._about(), rows, items, self.deviations(), list(dict.fromkeys(self.given.missing)),
            {name: part for name, part in taken.parts.items() if self._wanted(name)}, self.asked.gpu_hour_price, self.asked.gpus,
        )  # fmt: skip
        files.write_text(self.folder / "cells.csv", cells.table(rows).to_csv(index=False, lineterminator="\n"))
        return page.write(self.folder), {"cells": cells.tally(rows), "parts": taken.parts, "missing": page.missing}

    def _about(self) -> dict[str, str]:
        a = self.asked
        return {
            "model": f"{self.mllm!r}, weights and processor {self.mllm.fingerprint[:16]}",
            "licence": readiness.licence_of(a.model, self.mllm.source if Path(self.mllm.source).is_dir() else ""),
            "method": protocol.safesteer_named(a.rule, self.image_form),
            "sampling": f"temperature {protocol.TEMPERATURE:g}, at most {a.max_new_tokens} tokens, seeds {a.seeds}",
            "judge of harm": self.harm,
            "judge of refusals": REFUSALS.name,
            "fitted on": f"{len(self.given.fit)} requests of {self.given.training}",
        }

    def record(self, ready: Sequence[readiness.Ready], parts: Sequence[Part]) -> dict[str, Any]:
        """The plan for --json."""
        a = self.asked
        return {
            "model": self.mllm.name,
            "ready": all(line.ok for line in ready),
            "checks": list(ready),
            "parts": list(parts),
            "speed": self.speed,
            **cost(parts, a.gpu_hour_price, a.gpus),
            "deviations": self.deviations(),
            "missing": self.given.missing,
        }
