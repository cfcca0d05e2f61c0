"""Puts malformed input through the whole suite, and looks for tracebacks, partial files and touched files of the user's.

    python benchmarks/fuzz.py [--n 10000] [--seed 0] [--start 0] [--only NUMBER ...] [--kinds jsonl,image] [--out benchmarks/fuzz.json]

Case NUMBER of a seed is always the same, so that `--only` repeats a finding. A run that starts where the one in `--out` ended is added to
it, so that many cases may be run in parts. A case fails when anything but a SafeSteerError or an exit
of the command line escapes, when a half-written file stays behind, when a file of the user's has changed, or when it takes longer than
`LONGEST` seconds. Exit code 1 when a case failed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

LONGEST = 120
"""Seconds that a case may take."""
MOST_MEMORY = 8 << 30
"""Bytes of address space: a spoiled size must end in a sentence, not in a machine without memory."""


def user_files(folder: Path) -> None:
    """What a user might keep beside the suite's own files: none of it may change."""
    from PIL import Image

    for place in ("user", "figures", "figures/prefill_separability/planted"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "notes.txt").write_text("mine")
        (folder / place / "README.md").write_text("# mine")
    rows = [
        {"id": f"q{i}", "text": f"how do i {verb} the boat", "harmful": verb == "steal"} for i, verb in enumerate(("steal", "wash") * 3)
    ]
    (folder / "user" / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Image.new("RGB", (30, 20), "green").save(folder / "user" / "good.png")


def state_of(folder: Path) -> dict[str, str]:
    """Hash of every file that is the user's."""
    kept = [folder / "user", *(folder / "figures").rglob("notes.txt"), *(folder / "figures").rglob("README.md")]
    files = [p for top in kept for p in ([top] if top.is_file() else top.rglob("*")) if p.is_file()]
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def half_written(folder: Path) -> list[str]:
    """Temporary files that were left behind."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in (".tmp", ".part", ".partial") or p.name.endswith("~")]


class Hang(Exception):  # noqa: N818
    """A case took too long."""


def interrupt(number: int, frame: Any) -> None:
    raise Hang(f"longer than {LONGEST} s")


def run_case(number: int, seed: int, kinds: dict[str, Any], bases: Any, root: Path) -> tuple[str, str]:
    """(kind, what is wrong); empty when nothing is."""
    from safesteer_interp.errors import SafeSteerError

    rng = random.Random(f"{seed}-{number}")
    name = rng.choices(list(kinds), [weight for _, weight in kinds.values()])[0]
    folder = root / f"case-{number}"
    user_files(folder)
    before = {}
    os.chdir(folder)
    signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(LONGEST)
    wrong, said = "", io.StringIO()
    bases.note = ""
    try:
        before = state_of(folder)
        with redirect_stdout(said), redirect_stderr(said):
            kinds[name][0](rng, folder, bases)
        wrong = "a traceback was printed" if "Traceback (most" in said.getvalue() else ""
    except SafeSteerError as refusal:
        wrong = "" if str(refusal).strip() else "a refusal without a sentence"
    except (Exception, SystemExit) as cause:  # noqa: BLE001 - what escapes is what is looked for
        own = [f for f in traceback.extract_tb(cause.__traceback__) if "safesteer_interp" in f.filename]
        place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "outside the package"
        wrong = f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]} [{place}]"
    finally:
        signal.alarm(0)
        os.chdir(root)
    after = state_of(folder)
    if changed := [name_ for name_, digest in before.items() if after.get(name_) != digest]:
        wrong += f" changed or gone: {changed}"
    if left := half_written(folder):
        wrong += f" half-written: {left}"
    shutil.rmtree(folder, ignore_errors=True)
    return name, f"{wrong.strip()} {bases.note}".strip() if wrong else ""


def keep(out: Path, record: dict[str, Any], start: int) -> None:
    """Writes the outcome, together with that of the cases before it where they were run on their own."""
    before = json.loads(out.read_text(encoding="utf-8")) if start and out.exists() else {}
    if before and (before["seed"], before["next"]) == (record["seed"], start):
        for part in ("cases", "codes"):
            record[part] = dict(sorted((Counter(before[part]) + Counter(record[part])).items()))
        record |= {"wrong": before["wrong"] + record["wrong"], "seconds": before["seconds"] + record["seconds"]}
    out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Runs the cases and prints what was found."""
    parser = argparse.ArgumentParser(description="Malformed input through the whole suite.")
    parser.add_argument("--n", type=int, default=10_000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, nargs="*", default=[], help="numbers of single cases")
    parser.add_argument("--kinds", default="", help="only these kinds, by commas")
    parser.add_argument("--out", type=Path, default=None, help="also write the outcome as JSON")
    chosen = parser.parse_args()
    if sys.platform == "linux":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    root = Path(tempfile.mkdtemp(prefix="safesteer-fuzz-"))
    out = chosen.out.absolute() if chosen.out else None
    os.environ |= {"SAFESTEER_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.pop("SAFESTEER_DEBUG", None)
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    from fuzz_kinds import KINDS, Bases

    kinds = {name: KINDS[name] for name in (chosen.kinds.split(",") if chosen.kinds else KINDS)}
    bases = Bases(root / "bases")
    started = time.monotonic()
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    found: list[dict[str, Any]] = []
    numbers = chosen.only or range(chosen.start, chosen.start + chosen.n)
    try:
        for number in numbers:
            begun = time.monotonic()
            kind, wrong = run_case(number, chosen.seed, kinds, bases, root)
            counts[kind] += 1
            seconds[kind] += time.monotonic() - begun  # type: ignore[assignment]
            if wrong:
                found.append({"case": number, "kind": kind, "wrong": wrong})
                print(f"case {number} ({kind}): {wrong}", flush=True)
    finally:
        os.chdir("/")
        shutil.rmtree(root, ignore_errors=True)
    took = time.monotonic() - started
    for kind in counts:
        print(f"{kind:10} {counts[kind]:6} cases, {seconds[kind]:7.1f} s, {sum(f['kind'] == kind for f in found)} wrong")
    if bases.codes:
        print("command lines by exit code: " + ", ".join(f"{code}: {n}" for code, n in sorted(bases.codes.items())))
    print(f"{counts.total()} cases of seed {chosen.seed}, {len(found)} wrong, {took:.0f} s")
    if out:
        record = {"seed": chosen.seed, "next": numbers[-1] + 1, "cases": dict(counts), "codes": dict(bases.codes), "wrong": found}
        keep(out, {**record, "seconds": round(took)}, chosen.start)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
