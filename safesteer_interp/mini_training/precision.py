"""bfloat16 where it is fast: on GPUs and CPUs with instructions for it. Elsewhere it is emulated, twelve times slower than float32."""

from __future__ import annotations

import torch
from torch import nn

from safesteer_interp.models.dtypes import multiplies_bfloat16


def mixed(device_type: str) -> torch.autocast:
    """An autocast context for training: bfloat16 where the hardware has it, plain float32 (autocast switched off) where not."""
    fast = device_type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=fast)


def lightened(model: nn.Module, device: str | torch.device) -> nn.Module:
    """A frozen language model on the device, as trained around: on a CPU with bfloat16 instructions in bfloat16, with plain attention.

    Autocast would cast every frozen weight anew at every step, and PyTorch's fused attention takes longer backwards on a CPU than
    the products of a short turn written out: a step on eight turns of text takes 1.3 s instead of 1.75 (two threads).
    """
    device = torch.device(device)
    if device.type == "cpu" and multiplies_bfloat16():
        model.set_attn_implementation("eager")  # type: ignore[operator]
        model.to(torch.bfloat16)
    return model.to(device)


def prepare(device: str) -> None:
    """On a GPU: let float32 products use TF32, and cuDNN choose its fastest convolutions."""
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
