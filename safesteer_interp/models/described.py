"""Models that are elsewhere: config, processor and module tree without a single weight, for states that come from NDIF.

The weights used are the server's. What they are is known by hub id and commit alone, so these stand in the fingerprint for them. Nothing
can be run here: the layout is checked as far as a module tree without numbers can be.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from safesteer_interp.errors import UsageError
from safesteer_interp.files import digest
from safesteer_interp.models import hub
from safesteer_interp.models.checkpoint import read_config, stated_settings
from safesteer_interp.models.checks import check_places
from safesteer_interp.models.families.layouts import layout_for
from safesteer_interp.models.fingerprint import given_fingerprint, processor_digest
from safesteer_interp.models.loading import Sentence, processor_of
from safesteer_interp.models.mllm import MLLM
from safesteer_interp.models.size import refuse_absurd_counts
from safesteer_interp.models.special_tokens import set_padding


def describe_model(name: str, *, revision: str | None = None, system_prompt: str | None = None, thinking: bool | None = None) -> MLLM:
    """The model of a hub id, on torch's meta device; only its config, processor and tokenizer are fetched.

    Raises UsageError for what is no hub id, and InputError as `load_model` does.
    """
    if not hub.is_hub_id(name):
        raise UsageError(f'--remote: NDIF knows models by hub id ("owner/name"), and "{name}" is none; run it here without --remote.')
    folder = hub.download(name, revision, trust_remote_code=False, weights=False)
    raw = read_config(folder, trust_remote_code=False)
    refuse_absurd_counts(folder / "config.json", raw)
    options = {"local_files_only": True, "trust_remote_code": False}
    with Sentence(folder, raw):
        config = transformers.AutoConfig.from_pretrained(folder, **options)
        layout = layout_for(config)
        auto = transformers.AutoModelForImageTextToText if layout.vision_tower else transformers.AutoModelForCausalLM
        with torch.device("meta"):
            model = auto.from_config(config, dtype=config.dtype or torch.float32).eval()
        if (folder / "generation_config.json").is_file():
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
        processor = processor_of(folder, layout, options)
    for fact in layout.facts:
        fact.supply(config, processor, stated_settings(folder))
    set_padding(model, getattr(processor, "tokenizer", processor), name)
    identity = digest([name, commit_of(folder, revision), raw, processor_digest(processor)])
    mllm = MLLM(
        name=name,
        model=model,
        processor=processor,
        layout=layout,
        fingerprint=given_fingerprint(identity),
        source=f"hub {name}, revision {revision or 'main'}",
        system_prompt=system_prompt,
        thinking=thinking,
        loaded={"weights": "not here: NDIF's"},
    )
    check_places(mllm)
    return mllm


def commit_of(folder: Path, revision: str | None) -> str:
    """The commit that a snapshot is of, by the name of its folder in the hub's cache; else the revision asked for."""
    name = folder.resolve().name
    return name if len(name) == 40 and all(c in "0123456789abcdef" for c in name) else (revision or "main")


def is_described(mllm: MLLM) -> bool:
    """Whether a model is without weights."""
    return all(parameter.is_meta for parameter in mllm.model.parameters())
