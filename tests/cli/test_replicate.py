"""A whole replication at small size: true architecture, random weights, published layouts, harmless words; planned, run, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from support.published import write_published

from safesteer_interp.cli import replicating
from safesteer_interp.cli.replicate import Replicate
from safesteer_interp.cli.replication_inputs import Given
from safesteer_interp.defenses.safesteer import SafeSteer
from safesteer_interp.replication import protocol
from safesteer_interp.replication.estimate import Taken

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


@pytest.mark.slow
def test_speeds_are_kept_for_their_settings_and_methods(safesteer: Run, asked: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    timed: list[tuple[str, ...]] = []

    def throughput(mllm: Any, defenses: Any, requests: Any, *, settings: Any, repeats: int) -> pd.DataFrame:
        timed.append(tuple(defenses))
        same = {"tokens_per_second": 1.0, "ratio": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "n": repeats}
        return pd.DataFrame([{"defense": name, **same} for name in defenses])

    monkeypatch.setattr(replicating, "throughput", throughput)
    path = tmp_path / "out" / "tiny-llava" / "throughput.csv"
    every = ("none", "mllm_protector", "safesteer")
    for flags, times in (((), 1), (("--json", "--gpus", "2"), 1), (("--max-new-tokens", "7"), 2), ((), 3)):
        code, _, err = safesteer(*asked, "--only", "table2", *flags)
        assert code == 0 and len(timed) == times and timed[-1] == every, (flags, err)
    table = pd.read_csv(path)
    table[table["defense"] != "safesteer"].to_csv(path, index=False)
    assert safesteer(*asked, "--only", "table2")[0] == 0 and len(timed) == 4 and len(pd.read_csv(path)) == 3, "one was missing"


def test_a_fit_that_was_stopped_is_timed_later(safesteer: Run, asked: tuple[str, ...], tmp_path: Path, monkeypatch: Any) -> None:
    def stopped(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    taken = tmp_path / "out" / "tiny-llava" / "taken.json"
    with monkeypatch.context() as patch:
        patch.setattr(SafeSteer, "build", stopped)
        with suppress(KeyboardInterrupt):
            safesteer(*asked, "--only", "fit")
    first = json.loads(taken.read_text())["parts"]["fit"]
    assert list(first["training"]) == ["mllm_protector"] and first["spent"]["safesteer"] >= 0
    code, _, err = safesteer(*asked, "--only", "fit")
    second = json.loads(taken.read_text())["parts"]["fit"]
    assert code == 0 and set(second["training"]) == {"safesteer", "mllm_protector"}, err
    assert second["training"]["mllm_protector"] == first["training"]["mllm_protector"] > 0 and second["training"]["safesteer"] > 0


@pytest.mark.slow
def test_what_cannot_be_fitted_is_left_out_with_its_reason(safesteer: Run, asked: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = safesteer(*asked, *TABLES, "--training", "safesteer_d:attacks=SD+TYPO", "--json")
    assert code == 0, err
    done, folder = json.loads(out), tmp_path / "out" / "tiny-llava"
    why = 'no "CB" request in the fit split'
    assert [s.partition(":")[0] for s in done["missing"] if why in s] == ["safesteer", "without probe"]
    table = pd.read_csv(folder / "cells.csv").set_index(["table", "row", "column"])["outcome"]
    assert table["Table 1", "none", "FigStep ASR"] != "not measured" == table["Table 1", "safesteer", "FigStep ASR"]
    assert table["Table 2", "mllm_protector", "speed"] != "not measured" == table["Table 2", "safesteer", "speed"]
    assert table["Table 3", "without MSAV", "MM-SafetyBench All ASR"] != "not measured", "it needs no vector"


@pytest.mark.parametrize(("data", "place"), [("bundled", ""), ("sub/mine.jsonl", " on sub/mine.jsonl"), ("", "")])
def test_claims_are_found_by_the_name_of_their_data(data: str, place: str, tmp_path: Path, tiny: Any, monkeypatch: Any) -> None:
    asked_for: list[tuple[str, str]] = []
    mllm = tiny("llava")
    work = replicating.Replication(Replicate(mllm.name, judges=(), figures_data=data, out=tmp_path), mllm, (), "default", Given())
    (work.folder / "figures" / "a" / "b").mkdir(parents=True)
    (work.folder / "figures" / "a" / "b" / "claims.json").write_text("{}")

    def measured_in(folder: str, fingerprint: str) -> str:
        asked_for.append((folder, fingerprint))
        return "its name"

    def replication(name: str) -> list[Any]:
        assert name == "its name"
        return []

    found = SimpleNamespace(measured_in=measured_in, replication=replication)
    monkeypatch.setattr(replicating, "Results", lambda folder: found)
    work._page({}, pd.DataFrame(), {}, Taken(tmp_path / "taken.json", ""))
    assert asked_for == [(work.session.place, mllm.fingerprint)] and ("@mine" in work.session.place) == bool(place)
    assert any("are measured on" in d for d in work.deviations()) == bool(place)


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
