"""bfloat16 where it is fast: on GPUs and CPUs with instructions for it. Elsewhere it is emulated, twelve times slower than float32."""

from __future__ import annotations

import torch


def mixed(device_type: str) -> torch.autocast:
    """An autocast context for training: bfloat16 where the hardware has it, plain float32 (autocast switched off) where not."""
    fast = device_type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return torch.autocast(device_type, dtype=torch.bfloat16, enabled=fast)


def prepare(device: str) -> None:
    """On a GPU: let float32 products use TF32, and cuDNN choose its fastest convolutions."""
    if device.startswith("cuda"):
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
