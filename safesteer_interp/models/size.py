"""A config that describes a larger model than the weights are is refused before memory is taken for it.

transformers allocates what config.json describes and only then looks what the weight files hold: one wrong digit there can take all
memory of a machine. Counting costs nothing of that: the model is built on torch's meta device, which has shapes and no storage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from safesteer_interp.errors import InputError

MOST_MODULES = 2000
"""Layers (or experts) that a config may ask for: more than any model has, and few enough to be built as empty modules."""
SLACK = 1.5
"""A checkpoint that lacks a few tensors is refused by the names of those, later and better; beyond this ratio it is refused here."""


def refuse_absurd_counts(config: Path, raw: dict[str, Any]) -> None:
    """Raises InputError for a count of layers or experts that no model has: configs and modules are built in loops over them."""
    for name, value in _numbers(raw):
        if name.endswith(("layers", "n_layer", "depth", "experts")) and value > MOST_MODULES:
            raise InputError(
                f"{config} asks for {name} = {value:.6g}, more than the {MOST_MODULES} that are believed; fetch the checkpoint again."
            )


def refuse_larger_than_weights(config_file: Path, config: Any, auto: Any, weights: Sequence[Path], **options: Any) -> list[str]:
    """Names of the parameters and buffers of the model that `config` describes; nothing is allocated.

    Raises InputError when it has far more parameters than its weight files hold.

    `auto` is the transformers class that would load it. Packed weights (quantised) cannot be counted so.
    """
    with torch.device("meta"):
        model = auto.from_config(config, **options)
    described = sum(parameter.numel() for parameter in model.parameters())
    held = sum(map(numbers_in, weights))
    if described > SLACK * held:
        raise InputError(
            f"{config_file} describes a model of {described:,} parameters, but its weight files hold {held:,}; "
            "they do not belong together: fetch both from one checkpoint."
        )
    return [name for name, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())]


def numbers_in(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header alone."""
    with safe_open(path, framework="pt") as file:
        shapes = [torch.Size(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118 - safe_open is no mapping
    return sum(shape.numel() for shape in shapes)


def _numbers(raw: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every named number of a config and of the configs inside it."""
    open_parts = [raw]
    while open_parts:
        for name, value in open_parts.pop().items():
            if isinstance(value, dict):
                open_parts.append(value)
            elif isinstance(value, int | float):
                yield name, value
