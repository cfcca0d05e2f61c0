"""The runner on the known-answer model: once, resumed, verified, swept; failing and skipping without taking others along."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.analysis_toys import bench_on, write_toys

from safesteer_interp import runner
from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import sha256_of
from safesteer_interp.report import render
from safesteer_interp.requests import Attack, Split
from safesteer_interp.runner import provenance, source
from safesteer_interp.runner.tables import round_trip
from safesteer_interp.tracing.spec import TraceSpec

PLANTED = Path("readable") / "planted"


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file."""
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_writes_every_file_and_a_second_leaves_them_alone(run: Callable[..., Any], tmp_path: Path) -> None:
    first = run("readable", "lengths")
    assert [r.status for r in first.results] == ["done", "done"]
    assert first.exit_code == 0
    names = {p.name for p in (tmp_path / "figures" / PLANTED).iterdir()}
    pictures = {f"figure.{k}" for k in ("pdf", "svg", "png")} | {f"figure-column.{k}" for k in ("pdf", "svg")}
    assert names == pictures | {f"table.{k}" for k in ("csv", "tex", "md")} | {"claims.json", "provenance.json"}
    assert {"again.svg", "texts.csv"} <= {p.name for p in (tmp_path / "figures" / "lengths" / "planted").iterdir()}
    before = contents(tmp_path / "figures")
    assert [r.status for r in run().results] == ["unchanged", "unchanged"]
    assert [r.status for r in run(fresh=True).results] == ["done", "done"]
    assert contents(tmp_path / "figures") == before


def test_the_record_says_where_the_numbers_came_from(run: Callable[..., Any], tmp_path: Path) -> None:
    run("readable")
    record = json.loads((tmp_path / "figures" / PLANTED / "provenance.json").read_text())
    assert record["model"]["known_answer"] is True and len(record["model"]["fingerprint"]) == 64
    assert record["params"]["pairs"] == 6 and record["traces"] and record["seeds"]["control"] > 0
    assert {"torch", "transformers", "numpy"} <= set(record["versions"]) and "python" not in record["versions"]
    assert record["files"] == sorted(p.name for p in (tmp_path / "figures" / PLANTED).iterdir() if p.name != "provenance.json")
    assert str(tmp_path) not in json.dumps(record)
    facts = json.loads(provenance.run_record("readable", "planted").read_text())
    assert {"seconds", "peak_memory_mb", "commit", "dirty", "finished"} <= set(facts) and not set(facts) & set(record) - {"input_key"}
    claims = json.loads((tmp_path / "figures" / PLANTED / "claims.json").read_text())
    assert "proves the machinery" in claims["scope"]
    assert claims["claims"][0]["verdict"] == "undecided", "its only control decides nothing"


def test_every_request_runs_once_and_a_later_run_reads_the_store(
    run: Callable[..., Any], planted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safesteer_interp.tracing.hooks import HooksTracer

    traced: list[str] = []
    own = HooksTracer.capture

    def counted(self: HooksTracer, batch: Any, *args: Any, **kwargs: Any) -> Any:
        traced.extend(r.id for r in batch.requests)
        return own(self, batch, *args, **kwargs)

    monkeypatch.setattr(HooksTracer, "capture", counted)
    run("readable", "lengths")
    assert len(traced) == len(set(traced)) > 0
    traced.clear()
    session = bench_on(planted, tmp_path)
    assert not session.missing([TraceSpec(attacks=(Attack.CB,), pairs=3)])
    assert session.missing([TraceSpec(attacks=(Attack.TYPO,), pairs=3)])
    run(ids=("readable",), session=session, overrides={"pairs": "4"})
    assert not traced, "a smaller run must find its requests in the stored traces"


def test_a_view_holds_what_its_spec_asked_for(planted: Any, tmp_path: Path, fresh_cache: Path) -> None:
    session = bench_on(planted, tmp_path, pairs=8)
    long = TraceSpec(attacks=(Attack.CB,), sites=("final_norm", "resid_post.1"), reads=("last_prompt", "step:1-4"), max_new_tokens=6)
    short = TraceSpec(attacks=(Attack.CB,), split=Split.TEST, reads=("step:1",), max_new_tokens=1)
    whole, part = session.view(long), session.view(short)
    assert list(part.index["request"]) == [r.id for r in part.requests]
    assert set(part.index["split"]) == {"test"}
    assert all(len(g) <= 1 for g in part.generated) and part.index["n_generated"].max() <= 1
    at = [i for i, r in enumerate(whole.requests) if r.split is Split.TEST]
    assert (whole.rows("final_norm", "step:1")[at] == part.rows("final_norm", "step:1"))[part.present("step:1")].all()
    assert [whole.generated[i][:1] for i in at] == part.generated
    with pytest.raises(UsageError, match=r"resid_post\.1.*TraceSpec"):
        part.rows("resid_post.1", "step:1")


def test_the_head_of_the_final_norm_gives_the_models_own_logits(planted: Any, tmp_path: Path, fresh_cache: Path) -> None:
    import numpy as np

    from safesteer_interp.runner.context import Context
    from safesteer_interp.runner.discovery import discover

    session = bench_on(planted, tmp_path, pairs=4)
    analysis = discover(write_toys(tmp_path, "readable"))["readable"]
    ctx = Context(session, analysis, analysis.parameters(), tmp_path)
    last = f"resid_post.{planted.n_layers - 1}"
    view = ctx.trace(TraceSpec(attacks=(Attack.SD,), pairs=1, sites=("final_norm", last), logits=True))
    np.testing.assert_allclose(ctx.head(view.rows("final_norm", "last_prompt"), normed=True), view.logits, atol=1e-4)
    np.testing.assert_allclose(ctx.head(view.rows(last, "last_prompt")), view.logits, atol=1e-4)
    assert ctx.rng("a").random() == ctx.rng("a").random() != ctx.rng("b").random()


def test_one_failure_stops_no_other_and_keeps_what_was_there(run: Callable[..., Any], tmp_path: Path) -> None:
    report = run("readable", "broken")
    assert {r.id: r.status for r in report.results} == {"broken": "failed", "readable": "done"}
    assert report.exit_code == 3 and "KeyError" in str(report) and "broken.py" in report.failed[0].reason
    assert "nothing" in report.failed[0].detail
    assert json.loads((tmp_path / "figures" / "broken" / "planted" / "failed.json").read_text())["analysis"]["title"] == "Broken"


def test_a_note_of_a_failure_goes_once_a_result_stands(run: Callable[..., Any], tmp_path: Path) -> None:
    place = tmp_path / "figures" / PLANTED
    run("readable")
    failing = run(overrides={"sites": "resid_post.0"}, render=broken_render)
    assert [r.status for r in failing.results] == ["failed"] and (place / "failed.json").is_file()
    assert [r.status for r in run(overrides={"sites": "resid_post.0"}).results] == ["done"]
    (place / "failed.json").write_text("{}")
    (place / "skipped.json").write_text("{}")
    assert [r.status for r in run(overrides={"sites": "resid_post.0"}).results] == ["unchanged"]
    assert not list(place.glob("*ed.json"))


def broken_render(*_: Any) -> list[Path]:
    raise OSError(28, "No space left on device")


def test_pictures_of_an_earlier_result_are_drawn_again_after_a_run_that_drew_none(run: Callable[..., Any], tmp_path: Path) -> None:
    picture = tmp_path / "figures" / PLANTED / "figure.svg"
    run("readable")
    before = picture.read_bytes()
    other = {"sites": "resid_post.0"}
    assert [r.status for r in run(overrides=other, render=None).results] == ["done"] and picture.read_bytes() == before
    assert [r.status for r in run(overrides=other).results] == ["redrawn"] and picture.read_bytes() != before
    assert [r.status for r in run(overrides=other).results] == ["unchanged"]


def test_an_interrupted_run_resumes(run: Callable[..., Any], tmp_path: Path) -> None:
    stop = write_toys(tmp_path, "readable", "lengths") / "lengths.py"
    whole = stop.read_text()
    stop.write_text(whole.replace("    counts = trace", "    raise KeyboardInterrupt\n    counts = trace"))
    sys.modules.pop("analyses.lengths", None)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert (tmp_path / "figures" / PLANTED / "figure.pdf").is_file()
    stop.write_text(whole)
    sys.modules.pop("analyses.lengths", None)
    assert {r.id: r.status for r in run().results} == {"readable": "unchanged", "lengths": "done"}


def test_an_image_analysis_is_skipped_on_a_text_only_model(run: Callable[..., Any], tiny: Callable[[str], Any], tmp_path: Path) -> None:
    session = bench_on(tiny("llama"), tmp_path)
    report = run("lengths", session=session)
    assert [r.status for r in report.results] == ["skipped"] and report.exit_code == 0
    assert "text only" in report.results[0].reason
    note = json.loads((report.results[0].folder / "skipped.json").read_text())
    assert "text only" in note["reason"]


def test_bad_names_get_the_nearest_ones(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'"readible".*"readable"'):
        run("readable", ids=("readible",))
    with pytest.raises(UsageError, match=r"--set pair: no such parameter.*pairs"):
        run("readable", overrides={"pair": "3"})
    with pytest.raises(UsageError, match='called "reader"'):
        run("readable", overrides={"reader.pairs": "3"})
    with pytest.raises(UsageError, match='profile is called "fast"'):
        run("readable", profile="fast")
    with pytest.raises(InputError, match="no analysis found"):
        runner.discover(tmp_path / "nowhere")


def test_the_plan_counts_and_makes_nothing(planted: Any, tmp_path: Path, fresh_cache: Path) -> None:
    session = bench_on(planted, tmp_path)
    record = runner.plan(folder=write_toys(tmp_path, "readable", "lengths"), session=session).record()
    assert record["bytes"] == sum(t["bytes"] for t in record["traces"]) > 0
    assert not (tmp_path / "traces").exists()


def test_the_plan_says_what_will_fail_and_plans_the_rest(planted: Any, tmp_path: Path, fresh_cache: Path) -> None:
    folder = write_toys(tmp_path, "readable", "lengths")
    lengths = folder / "lengths.py"
    lengths.write_text(
        lengths.read_text().replace("attacks=(Attack.CB,), pairs=2", 'attacks=(Attack.CB,), sites=("resid_post.99",), pairs=2')
    )
    (folder / "odd.py").write_text("def broken(:")
    record = runner.plan(["readable", "lengths", "odd"], folder=folder, session=bench_on(planted, tmp_path)).record()
    assert len(record["unreadable"]) == 1 and "odd.py is not valid Python" in record["unreadable"][0]
    ends = {a["id"]: a["will_fail"] for a in record["analyses"]}
    assert ends["readable"] is None and "resid_post.99" in ends["lengths"] and record["bytes"] > 0


def test_a_sweep_reads_the_stored_trace_and_tabulates_claims(run: Callable[..., Any], planted: Any, tmp_path: Path) -> None:
    run("readable")
    folder, session = tmp_path / "analyses", bench_on(planted, tmp_path)
    report = runner.sweep("readable", {"seed": "0-1", "pairs": [4, 6]}, out=tmp_path / "sweeps", folder=folder, session=session)
    assert len(report.runs) == 4 and report.exit_code == 0
    assert list(report.table.columns) == ["seed", "pairs", "claim", "verdict", "value", "low", "high", "n"]
    assert (tmp_path / "sweeps" / PLANTED / "seed=0,pairs=4" / "table.csv").is_file()
    assert json.dumps(report.record())
    lists = runner.sweep("readable", {"sites": "final_norm"}, out=tmp_path / "sweeps", folder=folder, session=session)
    assert len(lists.runs) == 1 and (tmp_path / "sweeps" / PLANTED / "all" / "claims.json").is_file()
    with pytest.raises(UsageError, match=r'"seeds" to sweep.*"seed"'):
        runner.sweep("readable", {"seeds": "1"}, folder=folder, session=session)
    with pytest.raises(UsageError, match="whole number"):
        runner.sweep("readable", {"seed": "one"}, folder=folder, session=session)


@pytest.mark.slow
def test_rendering_needs_no_model_code_and_is_byte_identical(run: Callable[..., Any], tmp_path: Path) -> None:
    run("readable", "lengths")
    before = contents(tmp_path / "figures")
    script = (
        "import sys; from pathlib import Path; from safesteer_interp.report import build, render\n"
        f"render(figures=Path({str(tmp_path / 'figures')!r}), folder=Path({str(tmp_path / 'analyses')!r}))\n"
        f"build(Path({str(tmp_path / 'figures')!r}))\n"
        "print([m for m in ('torch', 'transformers', 'nnsight', 'transformer_lens') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout.strip() == "[]"
    after = contents(tmp_path / "figures")
    pages = {name for name in after if name.endswith(".html")} | {"README.md", "gallery.css", "gallery.js"}
    assert {"index.html", "readable/known-answer.html", "README.md"} <= pages
    assert {name: digest for name, digest in after.items() if name not in pages} == before


@pytest.mark.slow
def test_timings_that_came_with_the_checkout_stay_until_measured_afresh(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_toys(tmp_path, "readable") / "readable.py"
    path.write_text(path.read_text().replace("order=1", 'order=1, timed=("value",)'))
    run(ids=("readable",))
    before = contents(tmp_path / "figures")
    monkeypatch.setenv("SAFESTEER_CACHE", str(tmp_path / "cache of another machine"))
    assert [r.status for r in run(ids=("readable",)).results] == ["redrawn"]
    assert contents(tmp_path / "figures") == before
    assert [r.status for r in run(ids=("readable",), fresh=True).results] == ["done"]
    monkeypatch.setenv("SAFESTEER_CACHE", str(tmp_path / "cache of a third"))
    path.write_text(path.read_text().replace('timed=("value",)', "timed=()"))
    assert [r.status for r in run(ids=("readable",)).results] == ["done"], "what is no timing is measured here"


def test_rendering_names_what_it_cannot_draw(run: Callable[..., Any], tmp_path: Path) -> None:
    run("readable")
    with pytest.raises(InputError, match="no stored result"):
        render(figures=tmp_path / "none", folder=tmp_path / "analyses")
    (tmp_path / "figures" / PLANTED / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"readable.*forest needs the columns"):
        render(figures=tmp_path / "figures", folder=tmp_path / "analyses")


def test_a_table_survives_its_csv() -> None:
    table = pd.DataFrame(
        {"attack": ["none", "NA", ""], "value": [1 / 3, float("nan"), 2.0], "harmful": [True, False, True], "n": [1, 2, 3]}
    )
    back = round_trip(table)
    assert list(back["attack"]) == ["none", "NA", ""] and back["harmful"].dtype == bool and back["n"].dtype == int
    assert back["value"].iloc[0] == 0.333333 and back["value"].isna().sum() == 1
    pd.testing.assert_frame_equal(round_trip(back), back)


def test_a_change_of_the_measuring_code_measures_again_one_of_the_drawing_code_draws_again(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("readable").results[0].status == "done"
    monkeypatch.setattr(source, "drawing_code", lambda: "new drawing")
    assert [run().results[0].status for _ in range(2)] == ["redrawn", "unchanged"]
    monkeypatch.setattr(provenance, "measuring_code", lambda path: "new measuring")
    assert [run().results[0].status for _ in range(2)] == ["done", "unchanged"]
