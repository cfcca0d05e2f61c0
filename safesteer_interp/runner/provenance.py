"""Provenance: enough to know where a number came from and to make it again.

Everything in provenance.json is equal on a rerun, except the block "run": when, how long, how much memory, which commit. So all
other files of a finding, and this one without that block, are byte-identical.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from safesteer_interp.files import digest, digest_files
from safesteer_interp.runner.analysis import Analysis
from safesteer_interp.runner.context import Context
from safesteer_interp.runner.params import as_record
from safesteer_interp.tracing.demand import Demand

PACKAGES = (
    "safesteer-interp", "torch", "transformers", "tokenizers", "nnsight", "transformer-lens", "numpy", "scipy", "scikit-learn",
    "pandas", "matplotlib", "seaborn", "pillow", "safetensors",
)  # fmt: skip
DRAWING = ("plotting", "report")
"""Folders of the package that turn tables into pictures: a change there means drawing again, not measuring again."""
NOT_MEASURING = (*DRAWING, "cli", "doctor.py", "mini_training", "progress.py")

_ROOT = Path(__file__).resolve().parents[1]


def versions() -> dict[str, str]:
    """Python and the packages that can move a number; one that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measuring_code() -> str:
    """Hash of the package's source, without what only draws or talks."""
    return digest_files(_ROOT, ("*.py",), without=NOT_MEASURING)


def drawing_code() -> str:
    """Hash of the source, style sheets and templates that turn tables into pictures."""
    return digest([digest_files(_ROOT / part, ("*.py", "*.mplstyle")) for part in DRAWING])


def analysis_code(analysis: Analysis) -> str:
    """Hash of the analysis's file and of the shared files ("_*.py") beside it."""
    folder = analysis.source.parent
    return digest([digest_files(folder, (analysis.source.name,)), digest_files(folder, ("_*.py",))])


def input_key(ctx: Context, demands: list[tuple[Demand, str]], measuring: str) -> str:
    """Identity of a result: hash of everything that can move its table. Batch size, device, tracer and folders are left out."""
    return digest(
        {
            "analysis": ctx.analysis.id,
            "code": [analysis_code(ctx.analysis), measuring],
            "params": as_record(ctx.p),
            "model": ctx.model.fingerprint,
            "dtype": ctx.session.settings.dtype,
            "dataset": ctx.dataset,
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
    ctx: Context, *, key: str, data: Mapping[str, str], profile: str, rows: Mapping[str, int], seconds: float, git: Mapping[str, Any]
) -> dict[str, Any]:
    """What provenance.json holds. A model's or data set's folder is named by its last part only."""
    model, s, a = ctx.model, ctx.session.settings, ctx.analysis
    return {
        "analysis": {
            "id": a.id,
            "title": a.title,
            "question": a.question,
            "replicates": a.replicates,
            "cites": list(a.cites),
            "order": a.order,
            "captions": dict(a.captions),
        },
        "input_key": key,
        "profile": profile,
        "params": as_record(ctx.p),
        "model": {
            "name": str(model.name),
            "source": _portable(str(model.source)),
            "fingerprint": str(model.fingerprint),
            "family": str(model.layout.family),
            "layers": int(model.n_layers),
            "width": int(model.width),
            "takes_images": bool(model.takes_images),
            "dtype": s.dtype,
            "known_answer": ctx.planted,
        },
        "data": {"name": _portable(ctx.dataset), "requests": dict(data)},
        "traces": sorted(ctx.trace_keys),
        "seeds": dict(sorted(ctx.seeds.items())),
        "code": {"analysis": analysis_code(a), "package": measuring_code()},
        "tables": dict(rows),
        "versions": versions(),
        "run": {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
            "peak_memory_mb": peak_memory_mb(),
            "device": s.device,
            "tracer": s.tracer,
            "machine": platform.machine(),
            **git,
        },
    }


def _portable(source: str) -> str:
    return Path(source).name if Path(source).is_absolute() or source.startswith((".", "~")) else source
