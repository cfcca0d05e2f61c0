"""Fingerprint of a model: one SHA-256 over everything about it that affects a number. It enters every trace key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import PreTrainedModel

from safesteer_interp.content_digest import record_of
from safesteer_interp.errors import InputError
from safesteer_interp.files import file_digest

UNSTABLE = ("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype", "_persistent_id")
"""Entries of a config or a processor that say where and with what it was loaded (the last: that nnsight has sent it), not what it does."""
SCALARS = (str, int, float, bool)


def state_digest(model: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a model's parameters and buffers.

    Raises InputError when one cannot be read: it is offloaded, or packed in a form of its own.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        try:
            flat = tensor.detach().cpu().contiguous()
            content = flat.reshape(-1).view(torch.uint8).numpy().tobytes()
        except (NotImplementedError, RuntimeError, TypeError, AttributeError) as cause:
            reason = " ".join(str(cause).split())[:100]
            raise InputError(
                f"the weight {name} cannot be read to fingerprint the model ({reason}); give MLLM.of a fingerprint of your own "
                "(any text that changes whenever the weights do)."
            ) from None
        digest.update(f"{name}|{flat.dtype}|{tuple(flat.shape)}|".encode())
        digest.update(content)
    return digest.hexdigest()


def adapter_settings(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """What peft's layers do beside their weights: which adapters are active, how they are scaled, whether they are merged or off."""
    found = []
    for name, module in model.named_modules():
        if isinstance(getattr(module, "scaling", None), dict) and hasattr(module, "active_adapters"):
            record = {
                "active": list(module.active_adapters),
                "scaling": {k: float(v) for k, v in sorted(module.scaling.items())},
                "merged": list(getattr(module, "merged_adapters", ())),
                "off": bool(getattr(module, "disable_adapters", False)),
            }
            found.append((name, record))
    return found


def given_fingerprint(text: str) -> str:
    """Hex SHA-256 of a fingerprint that the user gives in the place of the weights."""
    return hashlib.sha256(f"given\0{text}".encode()).hexdigest()


def processor_digest(processor: Any) -> str:
    """SHA-256 over what a processor does: tokenizer vocabulary and rules, image settings, class names and chat template."""
    tokenizer = getattr(processor, "tokenizer", processor)
    images = getattr(processor, "image_processor", None)
    parts = {
        "processor": type(processor).__name__,
        "tokenizer": _rules(tokenizer.backend_tokenizer) if tokenizer.is_fast else sorted(tokenizer.get_vocab().items()),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "template": getattr(processor, "chat_template", None) or tokenizer.chat_template,
        "images": None if images is None else [type(images).__name__, _plain(images.to_dict())],
        "settings": {k: v for k, v in sorted(vars(processor).items()) if isinstance(v, SCALARS) and k not in UNSTABLE},
    }
    return hashlib.sha256(_text(parts, "the processor")).hexdigest()


def _text(settings: Any, what: str) -> bytes:
    """Settings as JSON; what JSON has no form for (a number format, an array, an enum) by its content.

    Raises UsageError for anything whose content cannot be known: how it prints may name an address, or cut an array short.
    """
    return json.dumps(settings, sort_keys=True, default=lambda value: record_of(value, f"a setting in {what} of the model")).encode()


def _rules(backend: Tokenizer) -> str:
    """A tokenizer's vocabulary and rules as text, without the padding and cutting that its last call left switched on."""
    if backend.padding is not None or backend.truncation is not None:
        backend = Tokenizer.from_str(backend.to_str())
        backend.no_padding()
        backend.no_truncation()
    return str(backend.to_str())


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Image settings without the keys that name files or classes, which differ between a built and a loaded processor."""
    return {k: v for k, v in settings.items() if k not in ("processor_class", "image_processor_type", "name_or_path", "_processor_class")}


def _stable(settings: Any) -> Any:
    """A config without what differs between two loads of the same weights, at any depth: a part names the folder it came from too."""
    if isinstance(settings, dict):
        return {k: _stable(v) for k, v in settings.items() if k not in UNSTABLE}
    return [_stable(v) for v in settings] if isinstance(settings, (list, tuple)) else settings


def fingerprint(model: PreTrainedModel, processor: Any, weights: list[Path] | None = None) -> str:
    """Hex SHA-256 over weights (their files when given, else the state dict), config, processor and chat template."""
    digest = hashlib.sha256()
    if weights:
        for path in sorted(weights, key=lambda p: p.name):
            digest.update(f"{path.name}:{file_digest(path)};".encode())
    else:
        digest.update(state_digest(model).encode())
        if adapters := adapter_settings(model):
            digest.update(json.dumps(adapters, sort_keys=True).encode())
    digest.update(_text(_stable(model.config.to_dict()), "the config"))
    digest.update(str(model.dtype).encode())
    digest.update(processor_digest(processor).encode())
    return digest.hexdigest()


def with_code(found: str, code: Mapping[str, Path]) -> str:
    """The fingerprint of a model that runs code of its own: files by their place in its folder. Without any it stays as it was found."""
    if not code:
        return found
    files = "".join(f"{place}:{file_digest(path)};" for place, path in sorted(code.items()))
    return hashlib.sha256(f"{found}\0code\0{files}".encode()).hexdigest()


def weights_digest(folder: str | Path) -> str:
    """Hex SHA-256 over the safetensors files of a folder; empty where there is none.

    Unlike a fingerprint it does not need the model in memory.
    """
    files = sorted(Path(folder).glob("*.safetensors")) if str(folder) and Path(folder).is_dir() else []
    return hashlib.sha256("".join(f"{p.name}:{file_digest(p)};" for p in files).encode()).hexdigest() if files else ""


def template_fingerprint(processor: Any, system_prompt: str | None, thinking: bool | None = None) -> str:
    """16 hex digits over the chat template, the system prompt and the switch for thinking: the text that surrounds every request."""
    template = getattr(processor, "chat_template", None) or getattr(getattr(processor, "tokenizer", processor), "chat_template", None)
    switch = "" if thinking is None else f"\0thinking {thinking}"
    return hashlib.sha256(f"{template or ''}\0{system_prompt or ''}{switch}".encode()).hexdigest()[:16]
