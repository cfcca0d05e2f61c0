"""How each family was tested: with which real processors, and under which versions of transformers and torch.

`tested.json` is written by `tests/models/test_real_processors.py` (SAFESTEER_RECORD=1) and, for checkpoints whose tokenizers may not be
passed on, by hand after the same checks with the authors' files. Every family is tested besides by its tiny model, whenever tests run.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

RECORD = Path(__file__).with_name("tested.json")


@cache
def real_processors() -> dict[str, dict[str, dict[str, str]]]:
    """Family -> hub id of the real processor -> package -> version."""
    found: dict[str, dict[str, dict[str, str]]] = json.loads(RECORD.read_text(encoding="utf-8"))
    return found


def how_tested(family: str) -> str:
    """ "tested with: real processor X, transformers Y, torch Z"; of a family without one, what stands for it."""
    real = real_processors().get(family, {})
    if not real:
        return "tested with: its tiny model (the real processor class, a vocabulary made here)"
    versions = {", ".join(f"{package} {version}" for package, version in sorted(each.items(), reverse=True)) for each in real.values()}
    plural = "processors" if len(real) > 1 else "processor"
    return f"tested with: real {plural} {' and '.join(real)}, {'; '.join(sorted(versions))}"


def record(family: str, processor: str, versions: dict[str, str]) -> None:
    """Notes that a real processor passed. Called by the tests."""
    found = {**real_processors(), family: {**real_processors().get(family, {}), processor: versions}}
    lines = (f'  "{name}": {json.dumps(found[name], sort_keys=True)}' for name in sorted(found))
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    real_processors.cache_clear()
