"""The number formats a model may be loaded in, and which one `auto` means on a device."""

from __future__ import annotations

from typing import Any

import torch

from safesteer_interp.errors import UsageError, did_you_mean

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUTO = "auto"
"""bfloat16 where the device multiplies it in hardware, else float32."""


def dtype_name(name: str, device: str = "cpu") -> str:
    """The key of `DTYPES` that a name means on a device. Raises UsageError for an unknown name."""
    if name == AUTO:
        return "bfloat16" if multiplies_bfloat16(device) else "float32"
    if name not in DTYPES:
        raise UsageError(f'no dtype is called "{name}".{did_you_mean(name, [*DTYPES, AUTO])}')
    return name


def check_options(part: Any, owner: str, *counts: str) -> None:
    """Raises UsageError unless `part.dtype` is a number format and each of its fields named in `counts` is at least 1."""
    if part.dtype not in DTYPES:
        raise UsageError(f'{owner} has no dtype "{part.dtype}"; it is one of {", ".join(DTYPES)}.')
    for name in counts:
        if getattr(part, name) < 1:
            raise UsageError(f"{name} of {owner} is {getattr(part, name)}; it must be at least 1.")


def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether a device multiplies bfloat16 matrices in hardware: there it is faster than float32, elsewhere slower.

    Answers of `mini` on two CPU cores: 1.55 times as many a second (`benchmarks/answering.json`)."""
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if not device.startswith("cpu"):
        return False
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))
