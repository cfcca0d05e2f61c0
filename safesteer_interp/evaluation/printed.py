"""The numbers that SafeSteer (arXiv 2605.11716) prints in its Tables 1 to 3, as it prints them."""

from __future__ import annotations

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
"""Tokens per second on `MODEL_OF_TABLE_2`, the only model that the paper prints them for."""
MODEL_OF_TABLE_2 = "Qwen2.5-VL-7B"
"""A key of the other tables."""
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
