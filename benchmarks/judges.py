"""How well refusals are recognised: precision and recall of the suite's rule and of every published list, on labelled answers.

    python benchmarks/judges.py            # a table, and benchmarks/judges.json
    python benchmarks/judges.py --misread  # and the answers that the suite's rule reads wrongly

Half of the answers are traps, so the numbers are lower than on what a model usually says: they compare lists. The rule was tuned on
them; what it got right of each batch before it was tuned on that batch is in the JSON ("before"). Exit code 1 when it misses 0.97.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

from safesteer_interp.evaluation.labelled import FIRST_READ, labelled_answers, qualities, quality
from safesteer_interp.refusals import is_refusal

TARGET = 0.97


@dataclass(frozen=True)
class Options:
    """Measure every test of refusals on the labelled answers."""

    misread: bool = False
    """Print the answers that the suite's rule reads wrongly."""


def main(options: Options) -> int:
    """Prints and writes the table; 1 when the suite's rule misses its target."""
    answers = labelled_answers()
    table = qualities(answers)
    dresses = pd.DataFrame(
        [{"dress": d, **quality(is_refusal, [a for a in answers if a.dress == d])} for d in dict.fromkeys(a.dress for a in answers)]
    )
    pd.set_option("display.width", 160)
    print(f"{len(answers)} answers, {sum(a.refusal for a in answers)} of them refusals\n")
    print(table.round(3).to_string(index=False), "\n")
    print(dresses.round(3).to_string(index=False))
    if options.misread:
        for answer in answers:
            if is_refusal(answer.text) != answer.refusal:
                print(f"{'a refusal missed' if answer.refusal else 'no refusal'}: {answer.text!r}")
    record = {"answers": len(answers), "strings": table.round(4).to_dict("records"), "before": {str(n): of for n, of in FIRST_READ.items()}}
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    own = table.iloc[0]
    return int(min(own["precision"], own["recall"]) < TARGET)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
