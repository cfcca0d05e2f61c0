"""Text-only decoders: Llama, Qwen2, Qwen3 and Mistral share one set of module paths, and Gemma 3 has norms after its blocks besides."""

from __future__ import annotations

from typing import Any

from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
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
    "gemma3_text": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
}
_OWN: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "attn_adds": "post_attention_layernorm",
        "mlp_adds": "post_feedforward_layernorm",
        "sliding": True,
        "bridge": False,
    }
}
"""What sets a family's layout apart from the others'."""


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
        **_OWN.get(family, {}),
    )
    for family in _KINDS
}
