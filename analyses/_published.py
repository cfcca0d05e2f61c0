"""Numbers that papers print about the defenses compared here, as they print them, and what of them does not fit together."""

from __future__ import annotations

from typing import Any

import pandas as pd

from safesteer_interp.evaluation.printed import COLUMNS, DENOMINATORS, FORMS, SAFESTEER, TABLE_1, TABLE_3

OTHERS: tuple[tuple[str, str, str, str, float, float], ...] = (
    ("arXiv:2403.09572", "LLaVA-1.5-7B", "ecso", "MM-SafetyBench SD+TYPO ASR", 67.9, 13.6),
    ("arXiv:2403.09572", "LLaVA-1.5-7B", "ecso", "MM-SafetyBench TYPO ASR", 68.3, 9.7),
    ("SRT (2026)", "Qwen3-VL-8B", "coca", "MM-SafetyBench SD+TYPO ASR", 43.10, 38.39),
    ("SRT (2026)", "Qwen3-VL-8B", "coca", "FigStep ASR", 28.6, 10.2),
    ("SRT (2026)", "Qwen3-VL-8B", "shiftdc", "MM-SafetyBench SD+TYPO ASR", 43.10, 47.73),
    ("SRT (2026)", "Qwen3-VL-8B", "shiftdc", "FigStep ASR", 28.6, 22.8),
    ("arXiv:2603.17372", "LLaVA-1.5-7B", "jrs_rem", "MM-SafetyBench SD ASR", 80.6, 12.6),
    ("arXiv:2603.17372", "LLaVA-1.5-7B", "jrs_rem", "MM-SafetyBench TYPO ASR", 79.6, 8.0),
    ("arXiv:2603.17372", "LLaVA-1.5-7B", "ecso", "HADES SD ASR", 77.3, 30.0),
    ("arXiv:2603.17372", "LLaVA-1.5-7B", "shiftdc", "HADES SD ASR", 77.3, 67.2),
    ("arXiv:2603.17372", "LLaVA-1.5-7B", "cmrm", "HADES SD ASR", 77.3, 73.8),
    ("arXiv:2603.17372", "LLaVA-1.5-7B", "adashield", "HADES SD ASR", 77.3, 28.4),
    ("arXiv:2410.09047", "LLaVA-7B", "cmrm", "VLSafe unsafe", 61.53, 3.15),
    ("arXiv:2507.01513", "LLaVA-1.5-7B", "adashield", "MM-SafetyBench ASR", 51.7, 14.3),
)
"""(source, model, method, benchmark, undefended in %, defended in %): each paper has its own judge and split."""


def printed() -> pd.DataFrame:
    """Every printed number: source, model, method, benchmark, value in %, undefended (that of the same column), change."""
    rows: list[dict[str, Any]] = []
    for model, methods in TABLE_1.items():
        for method, values in methods.items():
            for benchmark, value, plain in zip(COLUMNS, values, methods["none"], strict=True):
                rows.append({"source": f"{SAFESTEER} Table 1", "model": model, "method": method, "benchmark": benchmark, "value": value,
                             "undefended": plain})  # fmt: skip
    for model, parts in TABLE_3.items():
        for part, values in parts.items():
            for form, value, plain in zip((*FORMS, "All"), values, parts["without both"], strict=True):
                rows.append({"source": f"{SAFESTEER} Table 3", "model": model, "method": f"safesteer, {part}",
                             "benchmark": f"MM-SafetyBench {form} ASR", "value": value, "undefended": plain})  # fmt: skip
    rows += [
        {"source": source, "model": model, "method": method, "benchmark": benchmark, "value": value, "undefended": plain}
        for source, model, method, benchmark, plain, value in OTHERS
    ]
    return pd.DataFrame(rows).assign(change=lambda d: d["value"] - d["undefended"])


def checks() -> pd.DataFrame:
    """What the printed numbers are held against, one row each: check, cell, printed, expected, off (in points), fits.

    *average*: Table 3's "All" is the mean of its three forms. *count*: a rate is a whole number of items over the set's size. *same*: the
    full system and the undefended model of Table 3 are Table 1's. *repeated*: a part taken out leaves another number than taking out both.
    """
    rows: list[dict[str, Any]] = []
    for model, parts in TABLE_3.items():
        for part, values in parts.items():
            mean = sum(values[:3]) / 3
            rows.append(_check("average", f"{model}, {part}: All", values[3], mean, 0.0151))
        for form, place in (("SD", 1), ("TYPO", 2)):
            for part in ("without probe", "without MSAV"):
                same = parts[part][place] == parts["without both"][place]
                rows.append({"check": "repeated", "cell": f"{model}, {part}: {form}", "printed": parts[part][place],
                             "expected": parts["without both"][place], "off": 0.0, "fits": not same})  # fmt: skip
        for part, method in (("full", "safesteer"), ("without both", "none")):
            rows.append(_check("same", f"{model}, {part}", parts[part][3], TABLE_1[model][method][1], 0.0051))
    for model, methods in TABLE_1.items():
        for method, scores in methods.items():
            for benchmark, value in zip(COLUMNS, scores, strict=True):
                if benchmark in DENOMINATORS:
                    n = DENOMINATORS[benchmark]
                    rows.append(_check("count", f"{model}, {method}: {benchmark}", value, 100 * round(value * n / 100) / n, 0.0051))
    return pd.DataFrame(rows)


def _check(name: str, cell: str, value: float, expected: float, slack: float) -> dict[str, Any]:
    return {"check": name, "cell": cell, "printed": value, "expected": expected, "off": value - expected,
            "fits": abs(value - expected) <= slack}  # fmt: skip
