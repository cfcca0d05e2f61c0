"""Text-only decoders: Llama, Qwen2, Qwen3 and Mistral share one set of module paths."""

from __future__ import annotations

from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from safesteer_interp.models.families.building import TEXT, Built, random_model
from safesteer_interp.models.families.qwen2_5_vl import CHATML
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Layout

_KINDS: dict[str, tuple[type[PreTrainedConfig], type[PreTrainedModel], dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
}


def tiny(family: str) -> Built:
    """A four-layer decoder of the family with a ChatML tokenizer."""
    configuration, architecture, more = _KINDS[family]
    tokenizer = byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|im_end|>", pad="<|endoftext|>")
    tokenizer.chat_template = CHATML
    ids = {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = random_model(architecture, configuration(**TEXT, **ids, vocab_size=len(tokenizer), **more))
    return model, tokenizer


LAYOUTS = {
    family: Layout(
        family=family,
        model_types=(family,),
        layers="model.layers",
        final_norm="model.norm",
        lm_head="lm_head",
        embed_tokens="model.embed_tokens",
    )
    for family in _KINDS
}
