"""Low-rank adapters: trained with peft, kept as small safetensors files, merged without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from safesteer_interp.errors import InputError
from safesteer_interp.files import write_bytes

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def attach(model: nn.Module, rank: int = 8, alpha: int = 16, seed: int = 0) -> Any:
    """The model wrapped by peft with a fresh adapter on every linear layer; the base weights are frozen."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LINEARS)))


def save_adapter(wrapped: Any, path: Path) -> None:
    """Write the adapter: `<module path in the base model>.A` [rank, in] and `.B` [out, rank] with the scale folded into B, as int8.

    Every one of the `rank` directions has a step of its own, in `.A.step` and `.B.step` [rank]: half the size of float16, and what that
    changes of A B is about a hundredth.
    """
    tensors: dict[str, Tensor] = {}
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            tensors |= _steps(f"{name}.A", module.lora_A["default"].weight, 1)
            tensors |= _steps(f"{name}.B", module.lora_B["default"].weight * module.scaling["default"], 0)
    write_bytes(path, save(tensors))


def _steps(name: str, weight: Tensor, dim: int) -> dict[str, Tensor]:
    """The weight in 255 steps per direction; `dim` is the one that is not the rank."""
    weight = weight.detach().float().cpu()
    step = weight.abs().amax(dim, keepdim=True).clamp(min=1e-12) / 127
    return {name: (weight / step).round().to(torch.int8).contiguous(), f"{name}.step": step.flatten().contiguous()}


@torch.no_grad()
def merge_adapter(model: nn.Module, path: Path) -> None:
    """Add B A to every adapted weight, in place."""
    for name, (a, b) in _factors(path).items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, Tensor)
        weight += (b @ a).to(weight)


@torch.no_grad()
def load_adapter(wrapped: Any, path: Path) -> None:
    """Put a saved adapter into what `attach` has wrapped, to carry on from it. Raises InputError where its rank is another."""
    for name, (a, b) in _factors(path).items():
        module = wrapped.base_model.model.get_submodule(name)
        own = module.lora_A["default"].weight
        if own.shape != a.shape:
            raise InputError(f"adapter {path} has rank {len(a)}, this training {len(own)}; start from weights of the same rank.")
        own.copy_(a)
        module.lora_B["default"].weight.copy_(b / module.scaling["default"])


def _factors(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """A [rank, in] and B [out, rank] by module path, in float32."""
    with safe_open(path, "pt") as file:
        known = set(file.keys())

        def factor(name: str, dim: int) -> Tensor:
            step = file.get_tensor(f"{name}.step").unsqueeze(dim) if f"{name}.step" in known else 1.0
            return file.get_tensor(name).float() * step

        names = sorted(key[:-2] for key in known if key.endswith(".A"))
        return {name: (factor(f"{name}.A", 1), factor(f"{name}.B", 0)) for name in names}
