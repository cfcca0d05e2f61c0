"""The same model in the number format that answers are written in.

States are read in float32: probes, vectors and patches are about small differences. Whether an answer refuses is not, and a processor
that multiplies bfloat16 writes answers 1.55 times as fast in it (on two cores; `benchmarks/answering.py` measures speed and agreement).
"""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import Any, TypeVar

import psutil
import torch
from torch import nn

from safesteer_interp.models.dtypes import AUTO, DTYPES, dtype_name
from safesteer_interp.models.mllm import MLLM

Model = TypeVar("Model", bound=nn.Module)
SPARE = 0.2
"""A second copy may take this share of the device's memory; a model too large for that answers as it was loaded. Of all of it, not of
what happens to be free: the same run on the same machine must choose the same format."""


def answering_dtype(mllm: MLLM, dtype: str = AUTO) -> str:
    """The key of `DTYPES` that answers of a model are written in.

    "auto" is bfloat16 for a float32 model on a device that multiplies bfloat16 in hardware, unless its right answers are known (they
    are compared exactly), its weights are quantised or spread over devices, or there is no memory for a second copy; else its own.
    Raises UsageError for an unknown name.
    """
    own = str(mllm.dtype).removeprefix("torch.")
    if dtype != AUTO:
        return dtype_name(dtype, str(mllm.device))
    if mllm.dtype != torch.float32 or mllm.known_answer or _fixed(mllm.model):
        return own
    wanted = dtype_name(AUTO, str(mllm.device))
    return wanted if wanted != own and _fits(mllm, wanted) else own


def in_dtype(mllm: MLLM, dtype: str) -> MLLM:
    """The model itself where it is in that format already (or cannot be brought into another one), else a copy that is.

    The copy keeps the fingerprint: probes and vectors that were fitted on the model guide it. Stored answers and results name the
    format they were made in beside the fingerprint.
    """
    if mllm.dtype == DTYPES[dtype] or _fixed(mllm.model):
        return mllm
    with mllm.lock:
        model = copy.deepcopy(mllm.model)
    return replace(mllm, model=cast(model, DTYPES[dtype]).eval(), lock=threading.RLock())


def cast(model: Model, dtype: torch.dtype) -> Model:
    """A model in another number format, in place: what a checkpoint holds is cast, as transformers does when it loads one.

    Buffers that no checkpoint holds keep their precision: in bfloat16 the frequencies of rotary positions are off by up to 0.4 %,
    which turns the query of token 200 by most of a radian.
    """
    kept = model.state_dict().keys()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for name, buffer in model.named_buffers():
        if name in kept and buffer.is_floating_point():
            buffer.data = buffer.data.to(dtype)
    return model


def _fixed(model: Any) -> bool:
    """Whether weights are packed in a format of their own, or lie on several devices."""
    return bool(getattr(model, "is_quantized", False)) or len(getattr(model, "hf_device_map", None) or ()) > 1


def _fits(mllm: MLLM, dtype: str) -> bool:
    needed = sum(p.numel() for p in mllm.model.parameters()) * DTYPES[dtype].itemsize
    memory = torch.cuda.mem_get_info(mllm.device)[1] if mllm.device.type == "cuda" else psutil.virtual_memory().total
    return needed < SPARE * memory
