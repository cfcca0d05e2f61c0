"""MLLM-Protector's released parts through transformers: the harm detector (a LoRA on a 3B or 7B Llama) and the detoxifier (Vicuna-7B)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from safesteer_interp.content_digest import content_digest, loaded_digest
from safesteer_interp.environment import has
from safesteer_interp.errors import InputError
from safesteer_interp.models.dtypes import check_options
from safesteer_interp.models.fingerprint import fingerprint

REWRITE = (
    "You are given a response which may contain sensitive or harmful information, Please rewrite the response to make it harmless. \n"
    "Original response: {response}\nCorrected response: "
)
"""The released prompt (pipilurj/MLLM-protector); its training also showed the question."""


@dataclass(frozen=True)
class ReleasedDetector:
    """A sequence classifier with one output: sigmoid(logit) is the probability of being harmless."""

    model: str
    """Folder or hub id of a classifier, or of a peft adapter of one, e.g. renjiepi/protector_detector_3b_lora."""
    device: str = "cpu"
    dtype: str = "bfloat16"
    batch_size: int = 8
    longest: int = 512
    """Tokens of an answer that are read."""

    def __post_init__(self) -> None:
        check_options(self, "the detector of mllm_protector", "batch_size", "longest")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForSequenceClassification

        return _load(AutoModelForSequenceClassification, self.model, self.device, self.dtype, num_labels=1)

    def harmless(self, texts: Sequence[str]) -> list[float]:
        """[texts] probability of being harmless."""
        model, tokenizer = self._loaded
        found: list[float] = []
        for start in range(0, len(texts), self.batch_size):
            some = [text or " " for text in texts[start : start + self.batch_size]]
            batch = tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=self.longest).to(self.device)
            with torch.no_grad():
                logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            found += torch.sigmoid(logits.float()[:, 0]).tolist()
        return found

    def fingerprint(self) -> str:
        """Hex digest of code and weights."""
        cls: Any = type(self)
        return content_digest({"code": loaded_digest(cls), "model": fingerprint(*self._loaded)}, "the released detector")


@dataclass(frozen=True)
class ReleasedDetoxifier:
    """A language model that rewrites a response; greedy."""

    model: str
    """Folder or hub id, e.g. renjiepi/mllm_protector_detoxifier (a peft adapter of vicuna-7b-v1.5)."""
    device: str = "cpu"
    dtype: str = "bfloat16"
    batch_size: int = 4
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        check_options(self, "the detoxifier of mllm_protector", "batch_size", "max_new_tokens")

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM

        return _load(AutoModelForCausalLM, self.model, self.device, self.dtype)

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """Each response made harmless, by the released prompt."""
        model, tokenizer = self._loaded
        found: list[str] = []
        for start in range(0, len(texts), self.batch_size):
            prompts = [REWRITE.replace("{response}", text) for text in texts[start : start + self.batch_size]]
            batch = tokenizer(prompts, return_tensors="pt", padding=True).to(self.device)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            with torch.no_grad():
                out = model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False, pad_token_id=tokenizer.pad_token_id)
            found += [t.strip() for t in tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)]
        return found

    def fingerprint(self) -> str:
        """Hex digest of code, weights and length."""
        cls: Any = type(self)
        record = {"code": loaded_digest(cls), "model": fingerprint(*self._loaded), "most": self.max_new_tokens}
        return content_digest(record, "the released detoxifier")


def _load(kind: Any, name: str, device: str, dtype: str, **options: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a folder or hub id; a peft adapter is merged into the base it names. safetensors only."""
    from transformers import AutoTokenizer

    base = _base_of(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base or name, padding_side="left")
        model = kind.from_pretrained(base or name, dtype=getattr(torch, dtype), use_safetensors=True, **options)
        if base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, name).merge_and_unload()
    except (OSError, ValueError, ImportError) as cause:
        raise InputError(
            f'MLLM-Protector\'s part "{name}" cannot be loaded ({str(cause).splitlines()[0]}); give the folder of a local copy in '
            "safetensors format, or a hub id."
        ) from None
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(device).eval(), tokenizer


def _base_of(name: str) -> str | None:
    """The base model of a peft adapter; None for a model that is whole. Raises InputError where peft is needed and missing."""
    path = Path(name) / "adapter_config.json"
    if not path.is_file():
        if Path(name).exists() or "/" not in name:
            return None
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(name, "adapter_config.json"))
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError):
            return None  # what loads the model says what is wrong
    if not has("peft"):
        raise InputError(f'"{name}" is a peft adapter; install peft (pip install "safesteer-interp[train]"), or give a merged model.')
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, KeyError) as cause:
        raise InputError(f"{path} names no base model ({cause}); give a whole adapter.") from None
