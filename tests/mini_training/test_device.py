"""Every part of the training in small, on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
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
