"""Result folders as the runner leaves them, with hostile text wherever a file may hold any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

NASTY = '<script>alert("x")</script> & 50 % of a|b_c'


def claim(verdict: str = "supported", **changes: Any) -> dict[str, Any]:
    estimate = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40, "clusters": 20, "level": 0.95, "p": 0.01, "against": 0.5, "kind": "auroc"}
    control = {"name": "bag_of_words", "kind": "null", "absolute": False, "estimate": {**estimate, "value": 0.5, "low": 0.4, "high": 0.6}}
    return {
        "id": "c", "statement": f"Harm is readable {NASTY}", "verdict": verdict, "reason": "the whole interval lies above 0.5",
        "kind": "finding", "source": "", "printed": "", "p": 0.01, "p_holm": 0.03, "clusters_missing": 0, "clusters": "pairs",
        "difference_to": "", "effect": None, "estimate": estimate, "unit": "AUROC", "direction": "above", "threshold": 0.5,
        "controls": [control], "note": "", **changes,
    }  # fmt: skip


def result(
    figures: Path, analysis: str, folder: str, *, model: str = "mini", dataset: str = "bundled", order: int = 1,
    fingerprint: str = "f" * 64, verdict: str = "supported",
) -> Path:  # fmt: skip
    """A result folder as the runner leaves it."""
    place = figures / analysis / folder
    place.mkdir(parents=True)
    about = {
        "id": analysis, "title": f"Title of {analysis}", "question": "Is it so?", "replicates": "SafeSteer Fig. 7",
        "cites": ["arXiv:2605.11716"], "order": order, "captions": {"figure": NASTY},
    }  # fmt: skip
    record = {
        "analysis": about, "input_key": "0" * 64, "profile": "quick", "params": {"text": NASTY, "pairs": None},
        "model": {"name": model, "source": "", "fingerprint": fingerprint, "family": "llava", "layers": 30, "width": 576,
                  "takes_images": True, "dtype": "float32", "known_answer": model == "planted"},
        "data": {"name": dataset, "requests": {}}, "traces": ["a" * 64], "seeds": {"control": 3}, "tables": {"table": 200},
        "versions": {"python": "3.11"}, "run": {"finished": "2026-01-01", "seconds": 3.0},
    }  # fmt: skip
    (place / "provenance.json").write_text(json.dumps(record))
    (place / "claims.json").write_text(
        json.dumps({"scope": f"Scope {model}", "model": model, "dataset": dataset, "claims": [claim(verdict)]})
    )
    pd.DataFrame({"answer": [NASTY] * 200, "value": 0.9, "low": 0.8, "high": 1.0, "n": 4}).to_csv(place / "table.csv", index=False)
    for kind in ("svg", "pdf", "png"):
        (place / f"figure.{kind}").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return place
