"""A command cut into jobs gives the bytes that one process gives; a worker that is killed loses nothing and doubles nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import slurm

from safesteer_interp.cli.submit import split
from safesteer_interp.cluster import Resources, Stage, executors, stages_of, submit
from safesteer_interp.cluster.executors import _places
from safesteer_interp.cluster.stages import Job
from safesteer_interp.errors import UsageError
from safesteer_interp.evaluation.store import ResponseStore
from safesteer_interp.tracing.parts import Share
from safesteer_interp.turns import WORKER

TRACE = [
    "--model",
    "tiny:llama",
    "--requests",
    "planted:n_pairs=150",
    "--attacks",
    "TEXT",
    "--sites",
    "resid_post.0-3",
    "--max-new-tokens",
    "2",
]


def files_of(store: Path) -> dict[str, bytes]:
    """Every file of a store's traces: manifests, indices and shards."""
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.glob("*/*")) if p.is_file() and p.parent.name != ".locks"}


def ours(*words: str, wait: bool = True) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", "safesteer_interp", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if wait:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()
    return process


def test_a_run_becomes_parts_of_its_traces_and_then_its_analyses() -> None:
    traces, analyses = stages_of("run", ["--model", "M"], ["layer_choice", "refusal_lens"], 3)
    assert [job.command[3:] for job in traces.jobs] == [
        ("run", "layer_choice", "refusal_lens", "--model", "M", "--part", f"{i}/3") for i in (1, 2, 3)
    ]
    assert [job.command[3:] for job in analyses.jobs] == [("run", unit, "--model", "M") for unit in ("layer_choice", "refusal_lens")]
    assert len({job.name for stage in (traces, analyses) for job in stage.jobs}) == 5


def test_shares_are_disjoint_and_cover_everything() -> None:
    shares = [Share.parse(f"{i}/3") for i in (1, 2, 3)]
    assert sorted(n for share in shares for n in share.mine(8)) == list(range(8))
    for wrong in ("0/3", "4/3", "2", "a/b", "1/0"):
        with pytest.raises(UsageError, match="--part"):
            Share.parse(wrong)


def test_workers_write_answers_apart_and_read_them_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"request": "r", "text": "t", "ids": [1], "verdict": {}, "steps": [], "seconds": 0.1}
    for worker in ("run-a", "run/b", ""):
        monkeypatch.setenv(WORKER, worker)
        ResponseStore({"x": 1}, tmp_path).add([{"key": worker or "none", **line}, {"key": "all", **line}])
    assert len(list(tmp_path.iterdir())) == 3
    assert set(ResponseStore({"x": 1}, tmp_path).read()) == {"run-a", "run/b", "none", "all"}
    assert ResponseStore({"x": 2}, tmp_path).read() == {}


@pytest.mark.slow
def test_a_trace_in_parts_is_the_trace_and_a_killed_worker_costs_its_own_work(tmp_path: Path) -> None:
    ours("trace", *TRACE, "--store", str(tmp_path / "one"))
    parted = ["trace", *TRACE, "--store", str(tmp_path / "many")]
    first = ours(*parted, "--part", "1/2", wait=False)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "many").rglob("shard-*.json")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    left = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "many").rglob("parts/*/shard-*.safetensors")}
    assert left, "the worker left nothing before it was killed"
    ours(*parted, "--part", "2/2")
    ours(*parted)
    assert files_of(tmp_path / "many") == files_of(tmp_path / "one")
    assert not list((tmp_path / "many").rglob("parts"))
    key = next(p.parent for p in (tmp_path / "many").glob("*/manifest.json"))
    taken = [name for name, when in left.items() if (key / name).stat().st_mtime_ns == when]
    assert taken == sorted(left), "what the killed worker had finished was made again"


@pytest.mark.parametrize(
    "executor", [pytest.param("local", marks=pytest.mark.slow), *(pytest.param(e, marks=pytest.mark.long) for e in ("slurm", "ray"))]
)
def test_a_cluster_runs_a_finding_as_one_process_does(executor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if executor == "ray":
        pytest.importorskip("ray", reason="the extra ray is not installed")
    if executor == "slurm" and (reason := slurm.lacking()):
        pytest.skip(f"no SLURM can be started here: {reason}")
    asked = ["modality_gap", "--model", "planted", "--no-render"]
    ours("run", *asked, "--store", str(tmp_path / "one"), "--out", str(tmp_path / "figures-one"))
    words = [sys.executable, "-m", "safesteer_interp", "submit", "run", *asked, "--store", str(tmp_path / "many")]
    words += ["--out", str(tmp_path / "figures-many"), "--executor", executor, "--workers", "2", "--logs", str(tmp_path / "logs"), "--json"]
    words += ["--memory-gb", "4"]
    with slurm.one_node(tmp_path / "slurm") if executor == "slurm" else nullcontext(dict(os.environ)) as environment:
        own_cache = {**environment, "SAFESTEER_CACHE": str(tmp_path / "cache")}
        done = subprocess.run(words, capture_output=True, text=True, timeout=400, env=own_cache)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert set(outcome["ids"]) == {"run-part-1-of-2", "run-part-2-of-2", "run-modality_gap"} and outcome["waited"]
    one, many = (tmp_path / f"figures-{name}" / "modality_gap" / "planted" for name in ("one", "many"))
    for name in ("table.csv", "claims.json"):
        assert (one / name).read_bytes() == (many / name).read_bytes()


def test_a_job_that_fails_is_named_with_its_own_sentence(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    wrong = Job("wrong", (sys.executable, "-c", "import sys; sys.exit('safesteer: no model is called x')"))
    done = submit([Stage("one", (wrong,))], "local", tmp_path, Resources(hours=0.1))
    assert done.failed == {"wrong": "safesteer: no model is called x"}
    with pytest.raises(UsageError, match='"slum" is not known'):
        submit([], "slum", tmp_path, Resources())


def test_local_jobs_wait_for_a_place_and_have_the_threads_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    busy = tmp_path / "busy"
    busy.mkdir()
    code = (
        "import os, pathlib, sys, time\n"
        "busy, mine = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1], sys.argv[2])\n"
        "mine.touch(); time.sleep(0.5); n = len(list(busy.iterdir())); mine.unlink()\n"
        "pathlib.Path(sys.argv[1] + sys.argv[2]).write_text(f'{n} {os.environ[\"OMP_NUM_THREADS\"]}')"
    )
    jobs = tuple(Job(f"-{n}", (sys.executable, "-c", code, str(busy), f"-{n}")) for n in range(5))
    done = submit([Stage("one", jobs)], "local", tmp_path / "logs", Resources(cpus=3, hours=0.1, at_once=2))
    assert set(done.ids) == {job.name for job in jobs} and done.failed == {} and done.waited
    seen = [(tmp_path / f"busy-{n}").read_text().split() for n in range(5)]
    assert {threads for _, threads in seen} == {"3"} and max(int(n) for n, _ in seen) <= 2


def test_local_places_share_out_what_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "_devices", lambda: ["2", "5", "7"])
    monkeypatch.setattr(executors.psutil, "virtual_memory", lambda: SimpleNamespace(total=40 * 2**30))
    assert _places(Resources(), 3) == [{}, {}, {}] and _places(Resources(at_once=2), 28) == [{}, {}]
    assert _places(Resources(cpus=4, at_once=8), 1) == [{"OMP_NUM_THREADS": "4"}]
    assert _places(Resources(gpus=1, at_once=2), 28) == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert _places(Resources(gpus=2), 28) == [{"CUDA_VISIBLE_DEVICES": "2,5"}]
    assert len(_places(Resources(memory_gb=16, at_once=5), 28)) == 2
    for asked, words in (
        (Resources(gpus=4), "--gpus 4 is more than this machine has, 3"),
        (Resources(memory_gb=64), "--memory-gb 64.*40.0"),
    ):
        with pytest.raises(UsageError, match=words):
            _places(asked, 28)


def test_devices_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert executors._devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 1")
    assert executors._devices() == ["3", "1"]


@pytest.mark.parametrize(
    ("words", "ids", "flags"),
    [
        ("probe_training --out probe_training --model planted", ["probe_training"], "--out probe_training --model planted"),
        ("--model planted --out probe_training probe_training", ["probe_training"], "--model planted --out probe_training"),
        ("probe_training layer_choice --set seed=1", ["probe_training", "layer_choice"], "--set seed=1"),
        ("--out=probe_training --json probe_training", ["probe_training"], "--out=probe_training --json"),
    ],
)
def test_only_the_ids_themselves_are_taken_from_the_command(
    words: str, ids: list[str], flags: str, capfd: pytest.CaptureFixture[str]
) -> None:
    units, rest = split("run", words.split())
    assert sorted(units) == sorted(ids) and rest == flags.split()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("flag", ["--workers 0", "--cpus 0", "--memory-gb 0", "--gpus -1"])
def test_what_no_job_can_have_is_refused(flag: str, safesteer: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = safesteer("submit", "run", "probe_training", "--model", "planted", "--dry-run", *flag.split())
    assert (code, out) == (2, "") and f"{flag} is not possible" in err
