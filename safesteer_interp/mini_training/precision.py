"""bfloat16 where it is fast: on GPUs and CPUs with instructions for it. Elsewhere it is emulated, twelve times slower than float32."""

from __future__ import annotations

import torch
from torch import nn

from safesteer_interp.errors import UsageError
from safesteer_interp.models.casting import cast
from safesteer_interp.models.dtypes import multiplies_bfloat16


def mixed(device_type: str) -> torch.autocast:
    """An autocast context for training: bfloat16 where the hardware has it, plain float32 (autocast switched off) where not."""
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=multiplies_bfloat16(device_type))


def lightened(model: nn.Module, device: str | torch.device) -> nn.Module:
    """A frozen language model on the device, as trained around: on a CPU with bfloat16 instructions in bfloat16, with plain attention.

    Autocast would cast every frozen weight anew at every step, and PyTorch's fused attention takes longer backwards on a CPU than
    the products of a short turn written out: a step on eight turns of text takes 1.3 s instead of 1.75 (two threads).
    """
    device = torch.device(device)
    if device.type == "cpu" and multiplies_bfloat16():
        model.set_attn_implementation("eager")  # type: ignore[operator]
        cast(model, torch.bfloat16)
    return model.to(device)


def check_device(device: str) -> None:
    """Raises UsageError for a GPU where there is none."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: this PyTorch sees no GPU; leave the flag out to use the CPU.")


def prepare(device: str) -> None:
    """On a GPU: let float32 products use TF32, and cuDNN choose its fastest convolutions."""
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
