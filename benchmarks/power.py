"""What every claim can find at its shipped size: writes docs/power.md.

    python benchmarks/power.py [--figures figures] [--draws 200] [--write]

By claim: clusters, the effect at which power is asked for, the share of simulated tables on which it is supported there, and the largest
such share over all ways in which it is not true. Tables are mutated as in tests/findings/test_mutation.py.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.mutation import Finding, hook_of, share_supported, variants  # noqa: E402

from safesteer_interp import runner  # noqa: E402
from safesteer_interp.runner.power import assumed_effect, units  # noqa: E402
from safesteer_interp.runner.verdict import judge  # noqa: E402

PAGE = ROOT / "docs" / "power.md"
HEAD = """# What every claim can find

By `python benchmarks/power.py --write`, from the tables in `figures/`. *Power*: share of simulated tables on which the claim is supported
when it holds by *effect*, at its shipped number of clusters and Holm-adjusted over the claims of its finding. *False*: the largest such
share over all ways in which it is not true (at the edge of what is claimed; no more than a paired control; one more draw of its null).
Where a claim is undecided and its own lower bound of that probability (`runner/power.py`) is under 80 %, `claims.json` and the gallery
say how low; the bound may lie below the power simulated here.

| finding | model | claim | kind | clusters | effect | power | false |
|---|---|---|---|---:|---:|---:|---:|
"""


def rows(place: Path, draws: int) -> list[str]:
    """The table's lines of one result folder; sanity checks have no power, claims without an interval none to speak of."""
    known = Finding.stored(runner.discover(ROOT / "analyses")[place.parent.name], place)
    found = []
    for judged in judge(known.claims):
        claim = judged.claim
        if claim.kind == "sanity":
            continue
        head = f"| {known.analysis.id} | {place.name} | {claim.id} | {claim.kind} | {units(claim.estimate)} |"
        if not math.isfinite(judged.power):
            found.append(f"{head} – | no interval | – |")
            continue
        hook = hook_of(known, claim)
        power = share_supported(known, claim, "effect", draws=draws, hook=hook)
        false = max(share_supported(known, claim, v, draws=draws, hook=hook) for v in variants(claim))
        found.append(f"{head} {assumed_effect(claim):.2g} | {power:.0%} | {false:.1%} |")
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--figures", type=Path, default=ROOT / "figures")
    options.add_argument("--draws", type=int, default=200)
    options.add_argument("--write", action="store_true", help="write docs/power.md")
    asked = options.parse_args()
    lines = []
    for place in sorted(p.parent for p in asked.figures.glob("*/*/claims.json")):
        for line in rows(place, asked.draws):
            print(line, flush=True)
            lines.append(line)
        if asked.write:  # after every finding: a run that is stopped leaves what it knows
            PAGE.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
