"""Evaluation: defenses x requests x seeds, judged and compared.

- `evaluate`: a table of judged answers
- `Condition`: one defense with what it is to answer
- `respond`: the answers of several conditions, stored and reused
- `judged`: outcomes by other rules
- `rates`: shares of each outcome with intervals
- `macro`: their mean over scenarios
- `compare`: every defense against a baseline, paired
- `Outcome`: comply, refuse or degenerate
- `Judge`: says whether an answer is unsafe
- `RefusalStrings`: by a published list of refusals
- `Degeneration`: when an answer is no longer language
- `perplexity_limit`: a threshold for that
- `LlamaGuard`: a judge model
- `answer_perplexities`: of answers under the undefended model
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from safesteer_interp.lazy import attach

if TYPE_CHECKING:
    from safesteer_interp.evaluation.harness import Condition, evaluate, judged, respond
    from safesteer_interp.evaluation.judges import Degeneration, Judge, Outcome, RefusalStrings, perplexity_limit
    from safesteer_interp.evaluation.llama_guard import LlamaGuard
    from safesteer_interp.evaluation.metrics import compare, macro, rates
    from safesteer_interp.evaluation.perplexity import answer_perplexities

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "harness": ("evaluate", "Condition", "respond", "judged"),
        "metrics": ("rates", "macro", "compare"),
        "judges": ("Outcome", "Judge", "RefusalStrings", "Degeneration", "perplexity_limit"),
        "llama_guard": ("LlamaGuard",),
        "perplexity": ("answer_perplexities",),
    },
)
