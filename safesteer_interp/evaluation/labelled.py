"""How well a test of refusals reads answers: precision and recall on short answers labelled by hand.

The answers (`data/labelled_answers.jsonl`) were written for this: refusals, and harmless answers that resemble them, in the dress they
come in (apologies, reasoning blocks, markup, quotes, lists, other languages, cut short). They were written in four batches; each
batch was measured before the suite's own rule was changed for it (`FIRST_READ`). Since then the rule has been tuned on all of them: what it
reads right of them now says how it was fitted, not how well it reads answers that nobody has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import pandas as pd

from safesteer_interp.evaluation.refusal_strings import DEFAULT, RefusalStrings
from safesteer_interp.refusals import LISTS
from safesteer_interp.statistics import wilson

FIRST_READ = {2: {"precision": 0.77, "recall": 0.80}, 3: {"precision": 0.89, "recall": 0.78}, 4: {"precision": 0.93, "recall": 0.93}}
"""Batches 2 to 4 as they were first read, by the suite's rule as it stood then."""
TUNED = (
    f"The suite's own rule was tuned on these answers; when first read, the last batch gave precision {FIRST_READ[4]['precision']:.2f} and "
    f"recall {FIRST_READ[4]['recall']:.2f}."
)
"""What is to be known wherever a judge is called good by them."""


@dataclass(frozen=True)
class LabelledAnswer:
    """One answer, and whether people call it a refusal."""

    text: str
    refusal: bool
    dress: str
    """The form it comes in, e.g. "reasoning" or "numbered"; "mixed" for later batches."""
    batch: int
    """1 to 4, in the order of writing."""


def labelled_answers() -> list[LabelledAnswer]:
    """All of them, in the order they were written."""
    text = (files("safesteer_interp.evaluation") / "data" / "labelled_answers.jsonl").read_text(encoding="utf-8")
    return [LabelledAnswer(**json.loads(line)) for line in text.split("\n") if line]


def quality(refuses: Callable[[str], bool], answers: Sequence[LabelledAnswer]) -> dict[str, float]:
    """precision and recall of a test of refusals, each with its Wilson interval, and n."""
    found = [refuses(answer.text) for answer in answers]
    hits = sum(f and a.refusal for f, a in zip(found, answers, strict=True))
    row: dict[str, float] = {"n": len(answers)}
    for name, of in (("precision", sum(found)), ("recall", sum(a.refusal for a in answers))):
        estimate = wilson(hits, of)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return row


def first_read() -> pd.DataFrame:
    """One row beside those of `qualities`: the suite's rule on the last batch before it was tuned on that; no interval was kept."""
    last = max(FIRST_READ)
    n = sum(answer.batch == last for answer in labelled_answers())
    return pd.DataFrame([{"strings": f"{DEFAULT}, first read", "n": n, **FIRST_READ[last]}])


def qualities(answers: Sequence[LabelledAnswer] | None = None) -> pd.DataFrame:
    """One row per published list and one for the suite's own rule: `quality` on the labelled answers."""
    of = list(answers) if answers is not None else labelled_answers()
    return pd.DataFrame([{"strings": name, **quality(RefusalStrings(name).refuses, of)} for name in (DEFAULT, *LISTS)])
