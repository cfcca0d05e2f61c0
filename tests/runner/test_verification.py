"""Verify: what nobody touched passes, what somebody did is named, other weights and number formats are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.analysis_toys import bench_on

from safesteer_interp import runner
from safesteer_interp.errors import InputError
from safesteer_interp.runner import verification
from safesteer_interp.runner.session import RunSettings, Session
from safesteer_interp.tracing.capture import Capture

PLANTED = Path("readable") / "planted"


def test_verify_says_that_a_result_is_of_other_weights(run: Callable[..., Any], planted: Any, tmp_path: Path) -> None:
    run("readable")
    place = tmp_path / "figures" / PLANTED / "provenance.json"
    record = json.loads(place.read_text())
    record["model"]["fingerprint"] = "0123456789"
    place.write_text(json.dumps(record))
    found = runner.verify(figures=tmp_path / "figures", folder=tmp_path / "analyses", benches={"planted": bench_on(planted, tmp_path)})
    assert found.exit_code == 3 and not found.moved and "measured on other weights or with another processor (01234567, here" in str(found)


def test_verify_answers_in_the_format_that_results_were_answered_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that asked for no answers names no format: the model that is opened for it answers for the others too."""
    opened: list[dict[str, Any]] = []

    def open_(place: Path, record: Any, model: Any, data: Any, scratch: Any, settings: dict[str, Any]) -> Any:
        opened.append(settings)
        return settings

    places = {"adaptive_probe": {}, "case_study": {"answer_dtype": "bfloat16"}, "prefill_separability": {}}
    for name, more in places.items():
        folder = tmp_path / name / "mini"
        folder.mkdir(parents=True)
        model = {"name": "mini", "source": "", "dtype": "float32", **more}
        (folder / "provenance.json").write_text(json.dumps({"model": model, "data": {"name": "bundled"}}))
    monkeypatch.setattr(verification, "_open", open_)
    monkeypatch.setattr(verification, "compare", lambda analysis, place, record, session, **_: [])
    found = runner.verify(figures=tmp_path)
    assert len(found.checked) == 3 and opened == [{"answer_dtype": "bfloat16"}]


def test_verify_passes_what_nobody_touched_and_names_what_somebody_did(run: Callable[..., Any], planted: Any, tmp_path: Path) -> None:
    run("readable")
    figures, folder = tmp_path / "figures", tmp_path / "analyses"
    benches = {"planted": bench_on(planted, tmp_path)}

    def verify() -> Any:
        return runner.verify(figures=figures, folder=folder, benches=benches)

    clean = verify()
    assert clean.exit_code == 0 and "1 of 1 results verified" in str(clean)

    path = figures / PLANTED / "table.csv"
    original = path.read_text()
    table = pd.read_csv(path)
    was = table.loc[2, "value"]
    table.loc[2, "value"] = 0.123
    table.to_csv(path, index=False)
    moved = verify()
    assert moved.exit_code == 1
    cell = next(m for m in moved.moved if m.where == "table.csv")
    assert (cell.column, cell.stored, cell.recomputed) == ("value", "0.123", f"{was:.6g}")
    assert cell.row.startswith("row 2, site final_norm, method means")
    assert any(m.where == "claims.json" and "estimate.value" in m.column for m in moved.moved)

    path.write_text(original)
    claims = figures / PLANTED / "claims.json"
    claims.write_text(claims.read_text().replace('"undecided"', '"supported"'))
    forged = verify()
    assert forged.exit_code == 1 and all(m.where == "claims.json" for m in forged.moved)
    assert {m.column.split(" ")[0] for m in forged.moved} >= {"verdict"}

    path.unlink()
    assert verify().exit_code == 3 and "table.csv does not exist" in str(verify())
    with pytest.raises(InputError, match="nothing to verify"):
        runner.verify(figures=tmp_path / "none", folder=folder)


def test_retracing_begins_with_nothing_every_time_and_leaves_nothing(
    run: Callable[..., Any], planted: Any, tmp_path: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("readable")
    made, found, own, measure = list[int](), list[list[str]](), Capture.shard, verification.measure
    stores: list[Path] = []

    def session(settings: RunSettings) -> Session:
        stores.append(settings.traces)
        return Session(settings, loaded_model=planted, loaded_requests=bench_on(planted, tmp_path).loaded_requests)

    def shard(*arguments: Any) -> Any:
        made.append(1)
        return own(*arguments)

    def measured(ctx: Any) -> Any:
        found.append([path.name for path in ctx.work_dir.iterdir()])
        (ctx.work_dir / "pair.json").write_text("{}")
        if len(found) in (2, 4):
            raise KeyboardInterrupt
        return measure(ctx)

    monkeypatch.setattr(verification, "Session", session)
    monkeypatch.setattr(verification, "measure", measured)
    monkeypatch.setattr(Capture, "shard", shard)

    def verify(**options: Any) -> Any:
        return runner.verify(figures=tmp_path / "figures", folder=tmp_path / "analyses", model="planted", progress=False, **options)

    retraced = fresh_cache / "retraced"
    assert verify(retrace=True).exit_code == 0 and len(made) > 0 and not list(retraced.iterdir())
    with pytest.raises(KeyboardInterrupt):
        verify(store=tmp_path / "traces")
    once = len(made)
    assert verify(store=tmp_path / "traces").exit_code == 0 and len(made) == once, "the store of the run has all"
    with pytest.raises(KeyboardInterrupt):
        verify(store=tmp_path / "traces")
    assert verify(retrace=True).exit_code == 0 and len(made) == 2 * once and not list(retraced.iterdir())
    assert found == [[], [], ["pair.json"], [], []], "what was killed is gone on with, what ended is not, nor where all begins anew"
    assert len({store for store in stores if store.is_relative_to(retraced)}) == 2
