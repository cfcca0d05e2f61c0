"""Verify: compute stored results again and say which cell or claim differs.

Three comparisons per result folder: the stored table against a new measurement with the stored parameters; claims.json against the
claims that follow from the stored table; and the verdicts from both. A table or claim edited by hand shows up by its own name.
Timings differ from run to run: of an analysis that declares some (`Analysis.timed`) the other columns are measured again and compared,
and its verdicts are held against the stored table only.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import pandas as pd

from safesteer_interp import files
from safesteer_interp.errors import InputError, SafeSteerError
from safesteer_interp.files import safe_name
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.discovery import discover
from safesteer_interp.runner.folders import RECORD, data_label, model_label, thinking_label
from safesteer_interp.runner.measure import claims_of, measure
from safesteer_interp.runner.params import from_record
from safesteer_interp.runner.results import MEASURE_ERRORS
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.runner.source import measuring_code
from safesteer_interp.runner.tables import table_files

RELATIVE, ABSOLUTE = 2e-3, 2e-4
"""How far a number may lie from the stored one: what threads, batch composition and another processor's arithmetic can move."""


@dataclass(frozen=True)
class Moved:
    """One stored value that differs from the recomputed one."""

    analysis: str
    folder: Path
    where: str
    """"table.csv", "claims.json", ..."""
    row: str
    """The row's number (from 0, header not counted) and its names, or the claim's id."""
    column: str
    stored: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.folder / self.where}, {self.row}, {self.column}: stored {self.stored}, recomputed {self.recomputed}"


@dataclass(frozen=True)
class VerifyReport:
    """What moved, and what could not be verified."""

    checked: tuple[Path, ...]
    moved: tuple[Moved, ...]
    problems: tuple[tuple[Path, str], ...] = ()
    left_out: tuple[tuple[Path, str], ...] = ()
    """What was not compared in a checked result, and why."""

    @property
    def exit_code(self) -> int:
        """1 when a number or claim moved, 3 when a result could not be recomputed, else 0."""
        return 1 if self.moved else 3 if self.problems else 0

    def record(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "checked": [str(p) for p in self.checked],
            "moved": [{**m.__dict__, "folder": str(m.folder)} for m in self.moved],
            "problems": [{"folder": str(p), "reason": why} for p, why in self.problems],
            "left_out": [{"folder": str(p), "reason": why} for p, why in self.left_out],
            "exit_code": self.exit_code,
        }

    def __str__(self) -> str:
        lines = [f"moved: {m}" for m in self.moved] + [f"not verified: {p}: {why}" for p, why in self.problems]
        lines += [f"left out: {p}: {why}" for p, why in self.left_out]
        sound = len(self.checked) - len({m.folder for m in self.moved})
        return "\n".join([*lines, f"{sound} of {len(self.checked)} results verified"])


def verify(
    ids: Iterable[str] = (),
    *,
    model: str | None = None,
    data: str | None = None,
    figures: Path = Path("figures"),
    retrace: bool = False,
    folder: Path | None = None,
    benches: Mapping[str, Session] | None = None,
    **settings: Any,
) -> VerifyReport:
    """Recomputes the results below `figures` with their stored parameters and compares.

    `model` and `data` limit it to the results of one model or data set, and say where a folder or file lies that results came from;
    `retrace` also makes traces and answers again, in an empty store that is removed at the end. Raises UsageError for an unknown id,
    InputError when there is nothing to verify.
    """
    with ExitStack() as scratch:
        return _verified(ids, model, data, figures, folder, benches or {}, settings, scratch if retrace else None)


def _verified(
    ids: Iterable[str],
    model: str | None,
    data: str | None,
    figures: Path,
    folder: Path | None,
    benches: Mapping[str, Session],
    settings: Mapping[str, Any],
    scratch: ExitStack | None,
) -> VerifyReport:
    """`verify`; traces are made again where there is a `scratch`, at whose end they go."""
    known, wanted = discover(folder), list(ids)
    chosen = {a.id: a for a in known.choose(wanted)}
    found = [p.parent for p in sorted(Path(figures).glob(f"*/*/{RECORD}")) if p.parent.parent.name in chosen]
    checked, moved, left_out = [], [], []
    problems = [(path, str(cause)) for path, cause in known.failing(wanted).items()]
    opened: dict[str, Session] = {}
    answered = _answered(found)
    for place in found:
        try:
            record = files.read_json(place / RECORD)
            if not (_is_of(place, 0, record["model"]["name"], model) and _is_of(place, 1, record["data"]["name"], data)):
                continue
            way = _way(place, record["model"])
            formats = {"answer_dtype": record["model"].get("answer_dtype") or answered.get(way, record["model"]["dtype"])}
            key = f"{way} {formats['answer_dtype']}"
            session = benches.get(record["model"]["name"]) or opened.get(key)
            if session is None:
                session = opened[key] = _open(place, record, model, data, scratch, {**formats, **settings})
            moved += compare(chosen[place.parent.name], place, record, session, fresh=scratch is not None)
            checked.append(place)
            if timed := chosen[place.parent.name].timed:
                left_out.append((place, f"{', '.join(timed)} and the verdicts of a new measurement: timings differ from run to run."))
        except MEASURE_ERRORS as cause:
            problems.append((place, str(cause) if isinstance(cause, SafeSteerError) else f"{type(cause).__name__}: {cause}"))
    if not checked and not problems:
        raise InputError(f"nothing to verify below {figures}; make results first with `safesteer run`.")
    return VerifyReport(tuple(checked), tuple(moved), tuple(problems), tuple(left_out))


def _way(place: Path, model: Mapping[str, Any]) -> str:
    """What results that one loaded model can measure again have in common, but for the number format of answers."""
    return f"{place.name} {model['dtype']} {files.digest(model.get('loaded', {}))}"


def _answered(found: Iterable[Path]) -> dict[str, str]:
    """The number format of answers by `_way`: only results that asked for answers name one, and the others need no model of their own."""
    formats: dict[str, str] = {}
    for place in found:
        try:
            model = files.read_json(place / RECORD)["model"]
            if "answer_dtype" in model:
                formats.setdefault(_way(place, model), str(model["answer_dtype"]))
        except MEASURE_ERRORS:
            continue  # said where it is verified
    return formats


def _is_of(place: Path, part: Literal[0, 1], name: str, asked: str | None) -> bool:
    """Whether a result is one of the model (part 0) or data set (1) asked for: by name, or by the folder or file it came from."""
    if asked is None or asked == name:
        return True
    label = place.name.partition("@")[2 * part] if part else _model_part(place)
    path = Path(asked).expanduser().resolve()
    expected = data_label(asked) if part else safe_name(model_label(path.name, str(path), ""))
    return path.name == name and label in (expected, safe_name(name))


def _model_part(place: Path) -> str:
    """What a result folder's name says of its model, without the switch for thinking."""
    name = place.name.partition("@")[0]
    return name.removesuffix(thinking_label(True)).removesuffix(thinking_label(False))


def _open(
    place: Path, record: Mapping[str, Any], model: str | None, data: str | None, scratch: ExitStack | None, settings: Mapping[str, Any]
) -> Session:
    """A session like the one a result came from. Raises InputError when it came from a path that nobody has named."""
    name, source, dataset = (str(x) for x in (record["model"]["name"], record["model"]["source"], record["data"]["name"]))
    label = _model_part(place)
    if model is None and label not in (safe_name(name), safe_name(source)):
        raise InputError(f"{name} came from a folder of its own; say where it lies with --model.")
    if data is None and dataset.endswith(".jsonl"):
        raise InputError(f"{dataset} came from a file of its own; say where it lies with --data.")
    loaded = record["model"].get("loaded", {})
    as_before = {name: loaded[name] for name in ("quant", "max_pixels", "attn_implementation") if name in loaded}
    chosen = {"dtype": record["model"]["dtype"], "thinking": record["model"].get("thinking"), **as_before, **settings}
    if scratch is not None:
        retraced = cache_dir() / "retraced"
        retraced.mkdir(parents=True, exist_ok=True)
        empty = TemporaryDirectory(dir=retraced, prefix=f"{record['input_key'][:16]}-", ignore_cleanup_errors=True)
        chosen["store"] = Path(scratch.enter_context(empty)) / "traces"  # answers go beside it, and with it
    return Session(RunSettings(**{**chosen, "model": model or name, "data": data or dataset}))


def compare(analysis: Analysis, place: Path, record: Mapping[str, Any], session: Session, *, fresh: bool = False) -> list[Moved]:
    """Differences between one stored result and its recomputation. Raises what loading, tracing or measuring raises, and InputError when
    the result is one of other weights, whose numbers would all have moved.

    One that was killed is gone on with, by the same code on the same model, unless it is to be `fresh`.
    """
    was, here = str(record["model"]["fingerprint"]), str(session.model.fingerprint)
    if was != here:
        raise InputError(
            f"it was measured on other weights or with another processor ({was[:8]}, here {here[:8]}); say with --model where those lie, "
            "or run the analysis again."
        )
    p = from_record(analysis.params, record["params"])
    stored = table_files(place, list(record["tables"]))
    same = files.digest([record["input_key"], measuring_code(analysis.source), str(session.model.fingerprint)])
    work = cache_dir() / "work" / analysis.id / f"verify-{same[:16]}"
    if fresh and work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    ctx = Context(session, analysis, p, work)
    tables, claims = measure(ctx)
    shutil.rmtree(work, ignore_errors=True)  # the next one measures again
    moved = []
    for name in sorted(set(stored) | set(tables)):
        if name not in stored or name not in tables:
            have = "table" if name in stored else "nothing"
            moved.append(Moved(analysis.id, place, f"{name}.csv", "whole table", "all", have, "table" if have == "nothing" else "nothing"))
            continue
        for row, column, old, new in table_differences(stored[name], tables[name], without=analysis.timed):
            moved.append(Moved(analysis.id, place, f"{name}.csv", row, column, old, new))
    kept = files.read_json(place / "claims.json")
    follows = claims_of(analysis, p, stored, model=kept["model"], dataset=kept["dataset"], known_answer=ctx.known_answer)
    moved += _claim_differences(analysis, place, kept, follows, "from the stored table")
    if not analysis.timed:
        moved += [m for m in _claim_differences(analysis, place, kept, claims, "from a new measurement") if m.column.startswith("verdict")]
    return moved


def table_differences(stored: pd.DataFrame, recomputed: pd.DataFrame, without: Collection[str] = ()) -> list[tuple[str, str, str, str]]:
    """(row, column, stored, recomputed) of every cell that differs by more than the tolerance, and of columns or rows that came or went.

    Cells of the columns `without` are not compared.
    """
    found = [("all rows", str(c), "a column", "no such column") for c in stored.columns if c not in recomputed.columns]
    found += [("all rows", str(c), "no such column", "a column") for c in recomputed.columns if c not in stored.columns]
    if len(stored) != len(recomputed):
        found.append(("all rows", "number of rows", str(len(stored)), str(len(recomputed))))
    shared = [c for c in stored.columns if c in recomputed.columns and c not in without]
    named = [c for c in shared if not pd.api.types.is_float_dtype(recomputed[c]) and c not in ("n", "clusters")]
    for i in range(min(len(stored), len(recomputed))):
        label = f"row {i}" + "".join(f", {c} {recomputed[c].iloc[i]}" for c in named[:5])
        for column in shared:
            old, new = stored[column].iloc[i], recomputed[column].iloc[i]
            if not _equal(old, new):
                found.append((label, str(column), _show(old), _show(new)))
    return found


def _claim_differences(analysis: Analysis, place: Path, kept: Mapping[str, Any], other: Mapping[str, Any], origin: str) -> list[Moved]:
    old, new = ({c["id"]: c for c in record["claims"]} for record in (kept, other))
    found = []
    for name in sorted(set(old) | set(new)):
        if name not in old or name not in new:
            have = ["a claim" if name in side else "no such claim" for side in (old, new)]
            found.append(Moved(analysis.id, place, "claims.json", f'claim "{name}"', f"presence ({origin})", *have))
            continue
        for key, a, b in _leaves(old[name], new[name]):
            if not _equal(a, b):
                found.append(Moved(analysis.id, place, "claims.json", f'claim "{name}"', f"{key} ({origin})", _show(a), _show(b)))
    return found


def _leaves(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Pairs of leaf values of two JSON records, by dotted path."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [leaf for k in {**old, **new} for leaf in _leaves(old.get(k), new.get(k), f"{path}.{k}" if path else k)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [leaf for i, (a, b) in enumerate(zip(old, new, strict=True)) for leaf in _leaves(a, b, f"{path}[{i}]")]
    return [(path, old, new)]


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, bool | str) or isinstance(new, bool | str) or old is None or new is None:
        return str(old) == str(new)
    try:
        a, b = float(old), float(new)
    except (TypeError, ValueError):
        return bool(old == new)
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _show(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
