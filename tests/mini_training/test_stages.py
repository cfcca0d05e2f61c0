"""The stages of a training: shares of a time budget, the order that several processes keep, and an error that is not lost."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from support import stage_toys
from support.stage_toys import die, note

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import write_json
from safesteer_interp.mini_training.evaluate import evaluate_mini
from safesteer_interp.mini_training.instruction import Recipe
from safesteer_interp.mini_training.stages import (
    ALIGNMENT,
    ANSWERS,
    GPU_WEIGHTS,
    NEEDS,
    TOWER,
    WEIGHTS,
    check_rest,
    makespan,
    run_apart,
    seconds_of,
)
from safesteer_interp.mini_training.train import Training, train_mini

ALL = (ANSWERS, TOWER, ALIGNMENT, *map(str, Recipe))


def test_one_process_divides_what_is_left_by_weight() -> None:
    unit = seconds_of(ALL, 1000.0)
    assert sum(WEIGHTS[stage] * unit for stage in ALL) == pytest.approx(1000.0, rel=1e-3)
    assert seconds_of(ALL[-1:], 90.0) * WEIGHTS[ALL[-1]] == pytest.approx(90.0, rel=1e-3)


def test_a_gpu_has_shares_of_its_own(tmp_path: Path) -> None:
    assert Training(tmp_path, "full", "cuda").shares == GPU_WEIGHTS and Training(tmp_path, "wide", "cpu").shares == WEIGHTS
    assert set(GPU_WEIGHTS) == set(WEIGHTS) == set(ALL)
    unit = seconds_of(ALL, 900.0, weights=GPU_WEIGHTS)
    assert sum(GPU_WEIGHTS[stage] * unit for stage in ALL) == pytest.approx(900.0, rel=1e-3)
    apart = seconds_of(ALL, 900.0, {}, 4, GPU_WEIGHTS)
    assert (GPU_WEIGHTS[TOWER] + GPU_WEIGHTS[str(Recipe.RELEASED)]) * apart == pytest.approx(900.0, rel=1e-3), "the longest way"


def test_two_processes_get_more_out_of_a_budget_and_still_end_in_time() -> None:
    one, two = seconds_of(ALL, 1000.0), seconds_of(ALL, 1000.0, {}, 2)
    assert 1.4 * one < two <= 2 * one
    assert makespan(ALL, two, {}, 2) == pytest.approx(1000.0, rel=1e-3)
    late = seconds_of(ALL[2:], 500.0, {TOWER: 400.0}, 2)
    assert makespan(ALL[2:], late, {TOWER: 400.0}, 2) == pytest.approx(500.0, rel=1e-3), "recipes wait for the tower that runs"
    assert late * WEIGHTS[str(Recipe.RELEASED)] < 100.0


def test_answers_that_leave_too_little_of_a_budget_end_the_training() -> None:
    planned = 1000 * (1 - WEIGHTS[ANSWERS] / sum(WEIGHTS[stage] for stage in ALL))
    check_rest(ALL, 1000, 600, 400)
    with pytest.raises(UsageError, match=rf"took 800 s, .* left 200 s of the {planned:.0f} s for tower, .*--budget {planned:.0f} or"):
        check_rest(ALL, 1000, 800, 200)
    unit = seconds_of(ALL, 1000, {}, 2)
    assert makespan(ALL[2:], unit, {}, 2) < 700
    check_rest(ALL, 1000, 750, 250, 2)
    with pytest.raises(UsageError, match=r"left 0 s of the \d+ s for alignment, released, "):
        check_rest(ALL, 1000, 1100, -100, 2)
    check_rest([ANSWERS], 10, 30, -20)


def test_a_training_ends_where_its_answers_took_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def stage(self: Training, name: str, seconds: float | None) -> None:
        begun.append(name)
        self.ends = time.monotonic() + 1.0
        write_json(self._record(name), {"seconds": 99.0})

    monkeypatch.setattr(Training, "stage", stage)
    with pytest.raises(UsageError, match="the model's own answers took 99 s"):
        Training(tmp_path, "tiny", "cpu", budget=100).run(list(Recipe))
    assert begun == [ANSWERS], "nothing is trained for a second"


def test_processes_keep_the_order_that_the_stages_need(tmp_path: Path) -> None:
    ended: list[str] = []
    run_apart(ALL, partial(note, tmp_path), 2, lambda: 100.0, ended.append)
    times = {stage: json.loads((tmp_path / f"{stage}.json").read_text()) for stage in ALL}
    assert sorted(ended) == sorted(ALL)
    assert all(times[need]["ended"] <= times[stage]["begun"] for stage in ALL for need in NEEDS[stage])
    assert all(1.0 <= times[stage]["seconds"] < 100.0 for stage in ALL)


def test_a_stage_that_fails_is_raised_and_nothing_begins_after_it(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(ValueError, match="grounded fails"):
        run_apart(["grounded", "unaligned", "lm_loss"], partial(note, tmp_path), 1, lambda: None, lambda _: None)
    assert not (tmp_path / "unaligned.json").exists()


def test_a_stage_that_is_killed_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ended without a word during grounded .*give the same command again, with fewer --jobs"):
        run_apart(["grounded"], partial(die, tmp_path), 2, lambda: None, lambda _: None)


def test_a_folder_keeps_to_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Training, "stage", lambda self, name, seconds: write_json(self._record(name), {"seconds": 1.0}))
    Training(tmp_path, "tiny", "cpu").run(list(Recipe))
    Training(tmp_path, "tiny", "cpu", workers=2).run(list(Recipe))
    with pytest.raises(
        UsageError, match="holds a training with --scale tiny and no --start; repeat it with these, or give another --folder"
    ):
        Training(tmp_path, "full", "cpu").run(list(Recipe))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_stages_end_with_a_training_that_is_killed_or_interrupted(end: signal.Signals, tmp_path: Path) -> None:
    tests = Path(stage_toys.__file__).parent.parent
    process = subprocess.Popen([sys.executable, "-m", "support.stage_toys", tmp_path], cwd=tests)
    deadline = time.monotonic() + 100
    while len(list(tmp_path.iterdir())) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(list(tmp_path.iterdir())) == 2 and len(children) >= 2
    process.send_signal(end)
    process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, alive


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path: Path) -> None:
    for asked in (partial(evaluate_mini, tmp_path / "card.json"), partial(train_mini, tmp_path / "folder")):
        with pytest.raises(UsageError, match="--device cuda: this PyTorch sees no GPU; leave the flag out"):
            asked(device="cuda")
