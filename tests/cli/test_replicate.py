"""A whole replication at small size: true architecture, random weights, published layouts, harmless words; planned, run, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.published import write_published

from safesteer_interp.replication import protocol

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--judges", "refusal_strings", "--max-new-tokens", "6", "--batch-size", "16", "--profile", "quick", "--speed-requests", "1",
         "--gpu-hour-price", "2", "--items", "3", "--tokens-per-second", "200", "--set", "pairs=4")  # fmt: skip
TABLES = ("--only", "fit", "table1", "table3", "table2")


@pytest.fixture
def asked(tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Without ECSO and MRD, which ask the model several times, and with two of the findings."""
    monkeypatch.setattr(protocol, "BASELINES", ("none", "mllm_protector"))
    monkeypatch.setattr(protocol, "FIGURES", {name: protocol.FIGURES[name] for name in ("prefill_separability", "decoding_separability")})
    return ("replicate", "--model", "tiny:llava", "--data-root", str(write_published(tmp_path / "data", each=1)), *SMALL,
            "--store", str(tmp_path / "traces"), "--out", str(tmp_path / "out"))  # fmt: skip


@pytest.mark.slow
def test_every_number_stands_beside_ours_and_a_second_run_makes_nothing(
    safesteer: Run, asked: tuple[str, ...], tmp_path: Path, fresh_cache: Path
) -> None:
    code, out, err = safesteer(*asked, *TABLES, "--dry-run", "--json")
    planned = json.loads(out)
    parts = {part["name"]: part for part in planned["parts"]}
    assert code == 0 and planned["ready"] and list(parts) == ["fit", "table1", "table3", "table2"]
    assert parts["table1"]["answers"] == 3 * (2 + 9 + 3 + 3) and parts["table3"]["answers"] == 2 * 9, "methods times items"
    assert planned["gpu_hours"] > 0 and planned["money"] == pytest.approx(2 * planned["gpu_hours"]) and planned["missing"] == []
    assert not (tmp_path / "out").exists(), "a dry run writes nothing"
    code, out, err = safesteer(*asked, *TABLES, "--json")
    assert code == 0, err
    folder = tmp_path / "out" / "tiny-llava"
    done = json.loads(out)
    kept = {path.name for path in tmp_path.iterdir() if any(path.rglob("*.jsonl"))}
    assert "traces-responses" in kept and list((tmp_path / "traces").glob("*/manifest.json"))
    assert list((tmp_path / "traces-candidates").glob("*.safetensors"))
    assert not [name for name in ("traces", "responses", "candidates", "verdicts") if (fresh_cache / name).exists()]
    assert done["cells"]["not measured"] == 2 * 7 + 3, "what was left out above, and MM-Vet, which has no grader"
    assert all(part["done"] and part["took"] > 0 and part["seconds"] >= 0 for part in done["parts"].values())
    cells = pd.read_csv(folder / "cells.csv")
    assert len(cells) == 30 + 7 + 16 and set(cells["table"]) == {"Table 1", "Table 2", "Table 3"}
    page = (folder / "replication.html").read_text(encoding="utf-8")
    assert "LLaVA-1.5-7B" in page and "K = 5 and 5 guided steps" in page and "estimated / took" in page
    before = {p: p.read_bytes() for p in (folder / "cells.csv", folder / "throughput.csv", *folder.glob("comparison/*/answers.jsonl"))}
    times = {name: part["took"] for name, part in done["parts"].items()}
    code, out, err = safesteer(*asked, *TABLES, "--json")
    assert code == 0 and {p: p.read_bytes() for p in before} == before
    assert {name: part["took"] for name, part in json.loads(out)["parts"].items()} == times


@pytest.mark.slow
def test_the_figures_are_findings_of_the_runner(safesteer: Run, asked: tuple[str, ...], tmp_path: Path) -> None:
    code, _, err = safesteer(*asked, "--only", "figures")
    assert code == 0, err
    folder = tmp_path / "out" / "tiny-llava"
    assert (folder / "figures" / "prefill_separability" / "tiny-llava" / "claims.json").is_file()
    text = (folder / "replication.md").read_text(encoding="utf-8")
    assert "linearly separable" in text and "## Not measured" in text, "a model that refuses nothing has no Fig. 8"


def test_what_is_missing_is_said_before_anything_runs(safesteer: Run, tmp_path: Path, fresh_cache: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("SAFESTEER_DATA", raising=False)
    empty = tmp_path / "empty"
    empty.mkdir()
    asked = ("replicate", "--model", "tiny:llava", "--data-root", str(empty), "--training", "planted", "--training-pairs", "2", "--out",
             str(tmp_path / "out"), "--tokens-per-second", "100", "--only", "table1")  # fmt: skip
    code, out, err = safesteer(*asked, "--judges", f"llama_guard:model={tmp_path / 'nowhere'}")
    assert code == 3 and "cannot be loaded" in err and "--judges" in err and "Nothing was run" in err
    code, out, err = safesteer(*asked, "--judges", "refusal_strings", "--dry-run")
    assert code == 0 and "holds no folder figstep/" in out and "holds no folder mm_vet/" in out and "speed given" in out
    assert not (tmp_path / "out").exists()
    for flags, words in ((("--only", "table9"), "no part is called"), (("--items", "0"), "leaves nothing"),
                         (("--max-new-tokens", "3"), "6 or more"), (("--gpu-hour-price", "-1"), "is no price")):  # fmt: skip
        code, _, err = safesteer(*asked, *flags)
        assert code == 2 and words in err, flags
    code, _, err = safesteer("replicate", "--model", "planted", "--judges", "refusal_strings")
    assert code == 3 and "fixture with known answers" in err
