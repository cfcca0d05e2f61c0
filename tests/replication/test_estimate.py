"""What a replication takes: sums, money, a given speed, and times that a resumed run adds to and a finished one does not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from safesteer_interp.errors import UsageError
from safesteer_interp.replication.estimate import GUIDED, Part, Speed, Taken, cost
from safesteer_interp.replication.page import Page, time_of, told_cost
from safesteer_interp.replication.readiness import disk, licence_of, memory


def test_hours_and_money_are_sums_over_parts_and_gpus() -> None:
    parts = [Part("a", 10, 5, 50, 2, 1800.0), Part("b", 1, 1, 10, 0, 1800.0)]
    found = cost(parts, 2.0, 4)
    assert (found["passes"], found["answers"], found["tokens"], found["verdicts"]) == (11, 6, 60, 2)
    assert found["hours"] == 1.0 and found["gpu_hours"] == 4.0 and found["money"] == 8.0
    assert "8.00 at 2 a GPU hour" in told_cost(parts, 2.0, 4) and "GPU hour" in told_cost(parts, None, 1)
    assert cost(parts, None, 1)["money"] is None
    assert [time_of(s) for s in (3.2, 600.0, 7300.0, float("nan"))] == ["3 s", "10 min", "2.0 h", "–"]


def test_a_given_speed_counts_prompts_as_tokens_and_methods_by_the_papers_table() -> None:
    speed = Speed.given(100.0)
    assert speed.answer(90) == pytest.approx(1.0) and speed.times("ecso") == 3.4 and speed.times("safesteer") == GUIDED
    with pytest.raises(UsageError, match="--tokens-per-second 0 is no speed"):
        Speed.given(0.0)


def test_time_is_added_until_a_part_is_done(tmp_path: Path) -> None:
    path = tmp_path / "taken.json"
    first = Taken.read(path, "x")
    first.plan([Part("fit", seconds=5.0)])

    def stopped() -> None:
        time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.time("fit", stopped)
    resumed = Taken.read(path, "x")
    resumed.plan([Part("fit", seconds=1.0)])
    assert resumed.parts["fit"]["seconds"] == 5.0 and not resumed.parts["fit"]["done"], "the first estimate is kept"
    before = resumed.parts["fit"]["took"]
    assert before >= 0.02 and resumed.time("fit", lambda: time.sleep(0.01) or 7) == 7
    took = resumed.parts["fit"]["took"]
    assert took > before
    again = Taken.read(path, "x")
    again.time("fit", lambda: time.sleep(0.01))
    assert again.parts["fit"]["took"] == took, "a finished part that is looked at again takes nothing more"
    assert Taken.read(path, "other settings").parts == {}
    path.write_text("{", encoding="utf-8")
    assert Taken.read(path, "x").parts == {}


def test_the_page_escapes_and_loads_nothing(tmp_path: Path) -> None:
    parts = {"fit": {"name": "fit", "passes": 3, "answers": 0, "tokens": 0, "verdicts": 0, "seconds": 10.0, "took": 5.0, "done": True}}
    page = Page("<b>m|x</b>", "LLaVA-1.5-7B", {"model": "<script>"}, [], [], ["it differs"], ["no data <here>"], parts, 2.0, 1)
    text = page.write(tmp_path).read_text(encoding="utf-8")
    assert "<script>" not in text and "&lt;script&gt;" in text and "http://" not in text and "it differs" in text
    assert page.work() == [("fit", "3 passes", "10 s", "5 s", "2.00")] and "took 5 s" in page.total()
    assert "&lt;here>" in (tmp_path / "replication.md").read_text(encoding="utf-8")


def test_memory_disk_and_licences(tiny: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llava")  # type: ignore[operator]
    assert memory(mllm, 4, 100, 28).ok and disk(tmp_path, 1000, 2).ok
    monkeypatch.setattr("safesteer_interp.replication.readiness.memory_of", lambda device: 3 * 2 * 4 * 64 * 4 * 128.0)
    full = memory(mllm, 8, 100, 28)
    assert not full.ok and "--batch-size" in full.detail
    assert not disk(tmp_path, 10**18, 0).ok
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert licence_of(str(tmp_path)) == "mit" and licence_of("Qwen/Qwen2.5-VL-7B-Instruct") == "Apache-2.0"
    assert licence_of("a/b") == "see its card on the hub" and licence_of("a/b", str(tmp_path / "none")) == "not stated in its folder"
