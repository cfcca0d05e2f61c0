"""Every part of the training in small, on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support.small_training import train_small

from safesteer_interp.mini_training.instruction import Recipe

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")])


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_every_part_trains(device: str, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters are trained with peft (the extra `train`)")
    found = train_small(device, tmp_path)
    assert found["cells"]["cells"] > 0
    adapters = {f"{name}_adapter.safetensors" for name in ("text", *Recipe)}
    projectors = {f"{name}_projector.safetensors" for name in Recipe if name is not Recipe.GROUNDED}
    assert adapters | projectors <= set(found["files"])


@pytest.mark.slow
def test_every_part_keeps_where_it_ended_when_its_seconds_ran_out(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="adapters are trained with peft (the extra `train`)")
    train_small("cpu", tmp_path, seconds=1e-9)
    parts = ("grounding", "reading", "alignment-0", "alignment-1", *(f"instruction-{name}" for name in Recipe))
    for part in parts:
        with safe_open(tmp_path / f"{part}.safetensors", "pt") as file:
            known = file.metadata()
        assert known["step"] == "0" and float(known["place"]) > 0, f"{part} would begin its schedule again"
