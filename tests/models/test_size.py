"""A config that describes more than the weight files hold is refused before memory is taken; what fits is counted exactly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from safesteer_interp.errors import InputError
from safesteer_interp.models import load_model
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.size import numbers_in, refuse_absurd_counts, refuse_larger_than_weights

Tiny = Callable[[str], MLLM]


def saved(mllm: MLLM, folder: Path) -> Path:
    mllm.model.save_pretrained(folder)
    mllm.processor.save_pretrained(folder)
    return folder


def spoil(folder: Path, **change: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    part = config.get("text_config", config)
    part.update(change)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_fits_holds_at_least_what_is_described(tiny: Tiny, family: str, tmp_path: Path) -> None:
    """Tied weights are counted once, as the files hold them: no sound checkpoint comes near the ratio that is refused."""
    mllm = tiny(family)
    folder = saved(mllm, tmp_path / family)
    config = transformers.AutoConfig.from_pretrained(folder)
    auto = transformers.AutoModelForImageTextToText if mllm.takes_images else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        described = sum(p.numel() for p in auto.from_config(config).parameters())
    assert described <= numbers_in(folder / "model.safetensors") <= 1.1 * described


@pytest.mark.parametrize(("family", "change"), [("llama", {"vocab_size": 10**9}), ("llava", {"intermediate_size": 10**8})])
def test_a_wrong_digit_takes_no_memory(tiny: Tiny, family: str, change: dict[str, int], tmp_path: Path) -> None:
    folder = saved(tiny(family), tmp_path / family)
    held = numbers_in(folder / "model.safetensors")
    spoil(folder, **change)
    with pytest.raises(InputError, match=rf"config.json describes a model of \d[\d,]+ parameters, .* hold {held:,};"):
        load_model(str(folder))


@pytest.mark.parametrize("change", [{"num_hidden_layers": 10**9}, {"num_hidden_layers": 1e300}])
def test_so_many_layers_are_not_even_counted(tiny: Tiny, change: dict[str, Any], tmp_path: Path) -> None:
    folder = saved(tiny("qwen3"), tmp_path / "qwen3")
    spoil(folder, **change)
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"config\.json asks for num_hidden_layers = 1e\+\d+, more than the 2000"):
        load_model(str(folder))
    assert time.monotonic() - begun < 20  # a loop over so many layers would not end


def test_counts_inside_other_configs_are_seen() -> None:
    with pytest.raises(InputError, match="n_layer = 3000"):
        refuse_absurd_counts(Path("config.json"), {"a": {"b": {"n_layer": 3000}}})
    refuse_absurd_counts(Path("config.json"), {"num_hidden_layers": 2000, "vocab_size": 10**6, "layers": "many", "depth": None})


@pytest.mark.speed
def test_counting_mini_is_cheap() -> None:
    from safesteer_interp.models.mini import checkpoint_dir

    folder = checkpoint_dir(None)
    config = transformers.AutoConfig.from_pretrained(folder)
    begun = time.monotonic()
    refuse_larger_than_weights(folder / "config.json", config, transformers.AutoModelForImageTextToText, [folder / "model.safetensors"])
    assert time.monotonic() - begun < 1
