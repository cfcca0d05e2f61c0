"""Numbers that papers print about the defenses compared here, as they print them, and what of them does not fit together."""

from __future__ import annotations

from typing import Any

import pandas as pd

SAFESTEER = "arXiv:2605.11716"
COLUMNS = ("FigStep ASR", "MM-SafetyBench ASR", "VLGuard S-U ASR", "VLGuard U ASR", "VLGuard SS RR", "MM-Vet accuracy")
TABLE_1: dict[str, dict[str, tuple[float, ...]]] = {
    "LLaVA-1.5-7B": {
        "none": (42.80, 37.62, 2.69, 15.38, 15.77, 31.00),
        "ecso": (25.40, 26.59, 1.08, 12.04, 16.67, 27.90),
        "mllm_protector": (34.40, 35.15, 1.08, 16.06, 22.22, 22.40),
        "mrd": (40.20, 38.31, 2.51, 15.61, 17.56, 30.30),
        "safesteer": (23.40, 30.37, 0.90, 8.60, 13.98, 27.60),
    },
    "Qwen2.5-VL-7B": {
        "none": (35.20, 15.13, 0.54, 3.85, 21.33, 57.50),
        "ecso": (25.40, 12.65, 0.00, 1.36, 21.33, 16.10),
        "mllm_protector": (14.60, 8.02, 0.54, 2.71, 24.19, 39.00),
        "mrd": (49.60, 12.86, 0.90, 3.85, 21.33, 55.80),
        "safesteer": (1.80, 1.75, 0.18, 0.90, 15.41, 52.20),
    },
    "Qwen3-VL-8B": {
        "none": (12.60, 2.73, 0.00, 1.36, 22.22, 46.60),
        "ecso": (13.20, 2.85, 0.00, 0.00, 21.15, 47.50),
        "mllm_protector": (11.20, 1.32, 0.00, 1.13, 25.63, 41.90),
        "mrd": (6.60, 2.39, 0.00, 1.13, 21.15, 53.30),
        "safesteer": (0.60, 0.69, 0.00, 0.23, 11.29, 56.00),
    },
}
"""Model -> method -> the columns, in %."""
DENOMINATORS = {"FigStep ASR": 500, "VLGuard S-U ASR": 558, "VLGuard U ASR": 442, "VLGuard SS RR": 558}
"""Items of each set: a printed rate must be a count over them."""
TABLE_2 = {"none": 97.89, "ecso": 29.00, "mllm_protector": 47.39, "mrd": 59.17, "safesteer": 92.97}
"""Tokens per second on Qwen2.5-VL."""
FORMS = ("CB", "SD", "TYPO")
TABLE_3: dict[str, dict[str, tuple[float, float, float, float]]] = {
    "LLaVA-1.5-7B": {
        "full": (18.29, 36.24, 36.58, 30.37),
        "without probe": (20.1, 38.31, 46.85, 35.09),
        "without MSAV": (21.99, 36.61, 47.94, 35.55),
        "without both": (21.05, 38.65, 50.13, 37.62),
    },
    "Qwen2.5-VL-7B": {
        "full": (1.21, 2.16, 1.90, 1.75),
        "without probe": (1.55, 4.14, 11.39, 2.65),
        "without MSAV": (1.21, 3.11, 11.39, 2.50),
        "without both": (10.96, 23.04, 11.39, 15.13),
    },
    "Qwen3-VL-8B": {
        "full": (0.00, 0.95, 1.12, 0.69),
        "without probe": (0.48, 4.92, 1.81, 2.50),
        "without MSAV": (0.28, 5.09, 1.98, 2.62),
        "without both": (0.52, 5.69, 1.98, 2.73),
    },
}
"""MM-SafetyBench ASR in % by form (CB, SD, TYPO) and "All"."""
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
