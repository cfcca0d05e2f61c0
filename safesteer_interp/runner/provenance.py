"""Provenance: enough to know where a number came from and to make it again.

provenance.json lies beside the figures, travels with them and is equal on a rerun. When, how long, on which machine and commit is kept
in the user cache (`run_record`), for it says nothing about the numbers and would differ every time.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from safesteer_interp.files import digest, write_json
from safesteer_interp.paths import cache_dir
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.params import as_record
from safesteer_interp.runner.source import measuring_code
from safesteer_interp.tracing.demand import Demand

PACKAGES = (
    "safesteer-interp", "torch", "transformers", "tokenizers", "nnsight", "transformer-lens", "numpy", "scipy", "scikit-learn",
    "pandas", "matplotlib", "seaborn", "pillow", "safetensors",
)  # fmt: skip


def versions() -> dict[str, str]:
    """The packages that can move a number, without the label of a local build; one that is not installed is left out.

    The Python they ran on is a fact of the machine and in `note_run`'s record.
    """
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            continue
    return found


def input_key(
    analysis: Analysis,
    p: Any,
    *,
    model: str,
    dtype: str,
    answers: str,
    dataset: str,
    demands: Sequence[tuple[Demand, str]],
    thinking: bool | None = None,
    stops: Sequence[int] = (),
) -> str:
    """Identity of a result: hash of everything that can move its table. Batch size, device, tracer and folders are left out.

    `model` is the model's fingerprint, `answers` the number format that answers are written in, `stops` the tokens that end them beyond
    the tokenizer's own; each demand comes with the hash of the requests behind it.
    """
    return digest(
        {
            "analysis": analysis.id,
            "code": measuring_code(analysis.source),
            "params": as_record(p),
            "model": model,
            **({} if thinking is None else {"thinking": thinking}),
            "dtype": dtype,
            **({"stops": list(stops)} if stops else {}),
            **({} if answers == dtype else {"answers": answers}),
            "dataset": dataset,
            "demands": [[demand.__dict__, data] for demand, data in demands],
        }
    )


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and dirty flag of the checkout a file lies in; nulls outside of one."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MiB (it never falls, so a later analysis includes earlier ones)."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        return round(psutil.Process().memory_info().rss / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def provenance(
    ctx: Context, *, key: str, data: Mapping[str, str], profile: str, rows: Mapping[str, int], files: Collection[str]
) -> dict[str, Any]:
    """What provenance.json holds. A model's or data set's folder is named by its last part only."""
    model, a = ctx.model, ctx.analysis
    return {
        "analysis": about(a),
        "input_key": key,
        "profile": profile,
        "params": as_record(ctx.p),
        "model": {
            "name": str(model.name),
            "source": portable(str(model.source)),
            "fingerprint": str(model.fingerprint),
            "family": str(model.layout.family),
            "layers": int(model.n_layers),
            "width": int(model.width),
            "takes_images": bool(model.takes_images),
            "dtype": ctx.session.dtype,
            **({"answer_dtype": ctx.answered_in} if ctx.answered_in else {}),
            **({} if model.thinking is None else {"thinking": bool(model.thinking)}),
            **({"loaded": dict(model.loaded)} if model.loaded else {}),
            "known_answer": ctx.known_answer,
        },
        "data": {"name": portable(ctx.dataset), "requests": dict(data)},
        "traces": sorted(ctx.trace_keys),
        "seeds": dict(sorted(ctx.seeds.items())),
        "code": measuring_code(a.source),
        "tables": dict(rows),
        "files": sorted(files),
        "versions": versions(),
    }


def about(analysis: Analysis) -> dict[str, Any]:
    """What the gallery says of an analysis without reading its file."""
    a = analysis
    return {
        "id": a.id,
        "title": a.title,
        "question": a.question,
        "replicates": a.replicates,
        "cites": list(a.cites),
        "order": a.order,
        "captions": dict(a.captions),
    }


def run_record(analysis: str, place: str) -> Path:
    """Where the facts of the last run of an analysis on a model are kept; `place` is the name of its result folder."""
    return cache_dir() / "runs" / analysis / f"{place}.json"


def note_run(ctx: Context, place: str, *, key: str, seconds: float, git: Mapping[str, Any]) -> None:
    """Keeps when and how long a finding was measured, with how much memory, on which machine and commit."""
    facts = {
        "input_key": key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
        "peak_memory_mb": peak_memory_mb(),
        "device": ctx.session.settings.device,
        "tracer": ctx.session.settings.tracer + (":remote" if ctx.session.settings.remote else ""),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **git,
    }
    write_json(run_record(ctx.analysis.id, place), facts)


def seconds_taken(analysis: str, place: str) -> float | None:
    """How long the last run of an analysis on a model took here; None when it never ran."""
    try:
        return float(json.loads(run_record(analysis, place).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def portable(source: str) -> str:
    """A source as results name it: a path that means something on this machine only by its last part."""
    return Path(source).name if Path(source).is_absolute() or source.startswith((".", "~")) else source
