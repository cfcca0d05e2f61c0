"""Low-rank adapters: trained with peft, kept as small safetensors files, merged without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from safesteer_interp.files import write_bytes

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def attach(model: nn.Module, rank: int = 8, alpha: int = 16, seed: int = 0) -> Any:
    """The model wrapped by peft with a fresh adapter on every linear layer; the base weights are frozen."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(LINEARS)))


def save_adapter(wrapped: Any, path: Path) -> None:
    """Write the adapter as float16: `<module path in the base model>.A` [rank, in] and `.B` [out, rank], the scale folded into B."""
    tensors: dict[str, Tensor] = {}
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            tensors[f"{name}.A"] = module.lora_A["default"].weight
            tensors[f"{name}.B"] = module.lora_B["default"].weight * module.scaling["default"]
    write_bytes(path, save({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items()}))


@torch.no_grad()
def merge_adapter(model: nn.Module, path: Path) -> None:
    """Add B A to every adapted weight, in place."""
    with safe_open(path, "pt") as file:
        names = [key[:-2] for key in file.keys() if key.endswith(".A")]  # noqa: SIM118
        for name in names:
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight += (file.get_tensor(f"{name}.B").float() @ file.get_tensor(f"{name}.A").float()).to(weight)
