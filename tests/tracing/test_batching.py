"""Batches shrink when memory is full and grow when asked to; nothing is lost, doubled or moved by it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tracing import requests_for

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.requests import Request
from safesteer_interp.tracing import collect
from safesteer_interp.tracing.batching import BatchSize, is_out_of_memory, parse_batch_size
from safesteer_interp.tracing.capture import Capture


class Device:
    """Memory for so many items at once."""

    def __init__(self, room: int) -> None:
        self.room, self.tried = room, list[int]()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.tried.append(len(items))
        if len(items) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return list(items)


def done(size: BatchSize, device: Device, n: int = 100) -> list[int]:
    return [item for made in size.batches(range(n), device) for item in made]


def test_auto_doubles_until_memory_is_full_and_remembers_what_fits(fresh_cache: Path) -> None:
    device = Device(20)
    assert done(BatchSize("auto", "model on cuda"), device) == list(range(100))
    assert device.tried[:5] == [8, 16, 32, 16, 16] and 32 not in device.tried[3:]
    again = Device(20)
    assert done(BatchSize("auto", "model on cuda"), again) == list(range(100))
    assert again.tried[0] == 16
    assert BatchSize("auto", "another").now == 8


def test_a_fixed_size_is_kept_unless_memory_is_full() -> None:
    roomy, small = Device(1000), Device(5)
    assert done(BatchSize(16), roomy) == done(BatchSize(16), small) == list(range(100))
    assert set(roomy.tried) == {16, 4}
    assert small.tried[:3] == [16, 8, 4] and max(small.tried[3:]) == 4


def test_one_that_does_not_fit_alone_and_other_errors_are_raised() -> None:
    with pytest.raises(InputError, match="one request alone does not fit"):
        done(BatchSize(4), Device(0))

    def broken(_: Sequence[int]) -> list[int]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(BatchSize("auto").batches([1], broken))
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("index out of range"))


def test_words_for_a_size() -> None:
    assert (parse_batch_size("auto"), parse_batch_size("7"), parse_batch_size(3)) == ("auto", 7, 3)
    for wrong in ("0", "-1", "many", "1.5"):
        with pytest.raises(UsageError, match=f"batch size {wrong}"):
            parse_batch_size(wrong)


def test_a_trace_that_ran_out_of_memory_on_the_way_holds_the_same_states(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = tiny("llama")
    requests = requests_for(mllm, 6)
    asked: dict[str, Any] = {"sites": "resid_post.1", "reads": "last_prompt", "store": None}
    want = collect(mllm, requests, batch_size=2, **asked)
    whole = Capture.batch

    def small(self: Capture, batch: Sequence[Request]) -> Any:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, batch)

    monkeypatch.setattr(Capture, "batch", small)
    got = collect(mllm, requests, batch_size=6, **asked)
    assert (want.rows("resid_post.1", "last_prompt") == got.rows("resid_post.1", "last_prompt")).all()
