"""Placement: on which devices a model's weights lie and in which form, for models that are larger than one device.

It is transformers' own machinery (accelerate's device maps, its quantization configs), put behind a few words that every command
takes, with the errors said beforehand: too little memory, a map that names no module, a form whose library is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from safesteer_interp.environment import has
from safesteer_interp.errors import InputError, UsageError, did_you_mean

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""Device maps by rule, as accelerate calls them."""
QUANTISED = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "int4": "torchao", "int8": "torchao"}
"""Forms that weights may be packed in, and the package each needs."""
ELSEWHERE = ("cpu", "disk", "meta")
_CUDA = re.compile(r"^cuda(?::(\d+))?$")
_SIZE = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([KMGT]?i?B)?\s*$", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass(frozen=True)
class Placement:
    """Where the weights go. The default is one device, whole and unpacked."""

    device: str = "cpu"
    device_map: str | Mapping[str, str | int] | None = None
    """One of `STRATEGIES`, a JSON object or the path of one (module path -> device, "cpu" or "disk"), or such a mapping."""
    max_memory: Mapping[str | int, str] | str | None = None
    """Most memory by device, e.g. "0=20GiB,1=20GiB,cpu=60GiB"; what a device map by rule may use."""
    quant: str | None = None
    """"4bit" or "8bit" (bitsandbytes), "int4" or "int8" (torchao): weights are packed while they are loaded."""
    offload: Path | None = None
    """Folder for the weights that the map puts on "disk"; by default one beside the cache."""

    @property
    def split(self) -> bool:
        """Whether transformers places the weights itself."""
        return self.device_map is not None or self.quant is not None

    def options(self, dtype: torch.dtype) -> dict[str, Any]:
        """Keyword arguments of `from_pretrained`; none for one device. Raises UsageError as the parsers below."""
        if not self.split:
            return {}
        found: dict[str, Any] = {"device_map": parsed_map(self.device_map) if self.device_map is not None else {"": self.device}}
        if isinstance(found["device_map"], dict):
            refuse_missing_devices(found["device_map"])
        if limits := parsed_memory(self.max_memory):
            found["max_memory"] = limits
        if self.offload is not None:
            found["offload_folder"] = str(self.offload)
        if self.quant is not None:
            found["quantization_config"] = quantization(self.quant, dtype)
        return found

    def record(self, model: nn.Module | None = None) -> dict[str, Any]:
        """What provenance says of it: nothing for a model that lies whole on one device. With the model, the map that was made."""
        if not self.split:
            return {}
        made = getattr(model, "hf_device_map", None)
        places = {str(k): str(v) for k, v in made.items()} if isinstance(made, Mapping) else None
        return {"device_map": places or str(self.device_map or self.device), **({"quant": self.quant} if self.quant else {})}


def parsed_map(text: str | Mapping[str, str | int]) -> str | dict[str, str | int]:
    """A device map as transformers takes it: the name of a rule, or module path -> device.

    Raises UsageError for a word that is no rule, a file that is missing, and JSON that is no such mapping.
    """
    if isinstance(text, str):
        if text in STRATEGIES:
            return text
        raw, where = text, "--device-map"
        if not text.lstrip().startswith("{"):
            path = Path(text).expanduser()
            if not path.is_file():
                known = ", ".join(STRATEGIES)
                raise UsageError(
                    f'--device-map "{text}" is no rule ({known}), no JSON object and no file.{did_you_mean(text, STRATEGIES)} '
                    'A map looks like {"model.vision_tower": 0, "model.language_model": 1, "lm_head": 1}.'
                )
            raw, where = path.read_text(encoding="utf-8"), str(path)
        try:
            given = json.loads(raw)
        except ValueError as cause:
            raise UsageError(f'{where}: not JSON ({cause}); write module paths and devices, e.g. {{"model": 0, "lm_head": 1}}.') from None
    else:
        given, where = dict(text), "device_map"
    if not isinstance(given, dict) or not given:
        raise UsageError(f'{where}: a device map is an object of module paths and devices, e.g. {{"model": 0, "lm_head": 1}}.')
    for path, device in given.items():
        if isinstance(device, bool) or not isinstance(device, str | int) or (isinstance(device, str) and not _is_device(device)):
            raise UsageError(f'{where}: "{path}" is put on {device!r}; a device is a number (GPU), "cpu", "disk", or a name like "cuda:0".')
    return given


def _is_device(name: str) -> bool:
    if name in ELSEWHERE:
        return True
    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def parsed_memory(text: Mapping[str | int, str] | str | None) -> dict[str | int, str]:
    """{0: "20GiB", "cpu": "60GiB"} from "0=20GiB,cpu=60GiB". Raises UsageError for a part that is none."""
    if text is None:
        return {}
    parts: Sequence[Any] = (
        [part.partition("=")[::2] for part in text.split(",") if part.strip()] if isinstance(text, str) else list(text.items())
    )
    found: dict[str | int, str] = {}
    for device, size in parts:
        name = str(device).strip()
        is_number = name.isascii() and name.isdigit() and len(name) < 10
        if not _SIZE.match(str(size)) or not (is_number or name in ELSEWHERE):
            raise UsageError(f'--max-memory "{device}={size}" is no limit; write for example 0=20GiB,1=20GiB,cpu=60GiB.')
        found[int(name) if is_number else name] = str(size).strip()
    return found


def size_in_bytes(text: str) -> float:
    """Bytes of "20GiB". Raises UsageError for anything else."""
    match = _SIZE.match(text)
    if match is None:
        raise UsageError(f'"{text}" is no size; write for example 20GiB.')
    return float(match[1]) * _UNITS[(match[2] or "").lower()]


def quantization(quant: str, dtype: torch.dtype) -> Any:
    """transformers' quantization config of that name. Raises UsageError for an unknown name and for a library that is not installed."""
    if quant not in QUANTISED:
        raise UsageError(f'--quant "{quant}" is not known.{did_you_mean(quant, QUANTISED)}')
    package = QUANTISED[quant]
    if not has(package):
        raise UsageError(f'--quant {quant} needs the package {package}, which is not installed: pip install "safesteer-interp[quant]".')
    if package == "bitsandbytes":
        from transformers import BitsAndBytesConfig

        four: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_compute_dtype": dtype, "bnb_4bit_quant_type": "nf4"}
        return BitsAndBytesConfig(**(four if quant == "4bit" else {"load_in_8bit": True}))
    import torchao.quantization as packing
    from transformers import TorchAoConfig

    return TorchAoConfig(packing.Int4WeightOnlyConfig() if quant == "int4" else packing.Int8WeightOnlyConfig())


def refuse_missing_devices(device_map: Mapping[str, str | int]) -> None:
    """Raises UsageError for a map that names a GPU which this machine has not: a map made elsewhere mixes devices that are not all here."""
    there = torch.cuda.device_count()
    for path, device in device_map.items():
        number = device if isinstance(device, int) else int(match[1] or 0) if (match := _CUDA.match(device)) else None
        if number is not None and number >= there:
            have = f"has {there}, numbered from 0" if there else "has none that torch can use"
            raise UsageError(f'--device-map puts "{path}" on GPU {number}, and this machine {have}; give a map of its own devices.')


def refuse_unknown_modules(device_map: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Raises InputError when a map names modules that the model has not, or leaves some of its weights without a place.

    `names`: the model's parameters and buffers.
    """
    modules = {"", *(".".join(name.split(".")[:i]) for name in names for i in range(1, name.count(".") + 2))}  # weights themselves, too
    if unknown := [path for path in device_map if path not in modules]:
        top = sorted({name.split(".")[0] for name in names})
        raise InputError(
            f'{where}: the device map names "{unknown[0]}", and the model has no such module.{did_you_mean(unknown[0], modules)} '
            f"Its parts are {', '.join(top)}."
        )
    placed = tuple(device_map)
    homeless = [n for n in names if not any(p == "" or n == p or n.startswith(f"{p}.") for p in placed)]
    if homeless:
        raise InputError(
            f"{where}: the map leaves {len(homeless)} weights without a place (first: {homeless[0]}); add a line for their part."
        )


def memory_of(device: str) -> float:
    """Bytes that are free on a device now."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return float(torch.cuda.mem_get_info(torch.device(device))[0])
    return float(psutil.virtual_memory().available)


def refuse_too_little_memory(place: str, weights_bytes: float, placement: Placement) -> None:
    """Raises InputError, before anything is loaded, when the weights alone do not fit where they are to go, saying what would."""
    if placement.quant is not None or isinstance(placement.device_map, Mapping):
        return
    limits = parsed_memory(placement.max_memory)
    if placement.device_map is None:
        free, where = memory_of(placement.device), f'device "{placement.device}"'
    elif limits:
        if "disk" in limits or placement.offload is not None:
            return
        free, where = sum(map(size_in_bytes, limits.values())), "what --max-memory allows"
    else:
        gpus = [memory_of(f"cuda:{i}") for i in range(torch.cuda.device_count())]
        free, where = sum(gpus) + memory_of("cpu"), "all devices together"
    if weights_bytes > free:
        raise InputError(
            f"{place} needs {weights_bytes / 2**30:.1f} GiB for its weights, and {where} has {free / 2**30:.1f} GiB; a half or a quarter "
            "of that is needed with --dtype bfloat16 or --quant 4bit, and --device-map auto (with --offload DIR) spreads them over "
            "several GPUs, memory and disk."
        )
