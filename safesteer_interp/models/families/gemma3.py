"""Gemma 3 (arXiv 2503.19786): SigLIP tower, pooled projector, sliding-window layers between full ones, norms after each block."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3Processor
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, Built, image_token_of, random_model
from safesteer_interp.models.families.tokenizers import metaspace
from safesteer_interp.models.layout import Fact, Layout

TURNS = (
    "{{ bos_token }}{% set turns = messages %}{% set first = '' %}"
    "{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}"
    "{% if messages[0]['content'] is string %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% else %}{% set first = messages[0]['content'][0]['text'] + '\n\n' %}{% endif %}{% endif %}"
    "{% for message in turns %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{% if loop.first %}{{ first }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<start_of_image>' }}{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Same structure as Gemma 3's template: the system text opens the user turn, and texts are trimmed."""


def tiny() -> Built:
    """28-pixel images become 4 tokens; sliding window of 16 tokens on every other layer."""
    tokens = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = metaspace([*tokens.values(), "<start_of_turn>", "<end_of_turn>"], gemma=True, **tokens)
    images = Gemma3ImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    processor = Gemma3Processor(image_processor=images, tokenizer=tokenizer, chat_template=TURNS, image_seq_length=4)
    config = Gemma3Config(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 28, "patch_size": 14, "vision_use_head": False},
        text_config={
            **TEXT,
            "head_dim": 16,
            "query_pre_attn_scalar": 16,
            "vocab_size": len(tokenizer),
            "sliding_window": 16,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        },
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    model = random_model(Gemma3ForConditionalGeneration, config)
    with torch.no_grad():  # transformers starts it at zero, and a tiny model whose projector says nothing would test nothing
        model.model.multi_modal_projector.mm_input_projection_weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    return model, processor


def write_out_image(processor: Any) -> None:
    """What Gemma 3's processor writes for an image, which it keeps as a text."""
    words = processor.tokenizer
    image = words.image_token * processor.image_seq_length
    processor.full_image_sequence = f"\n\n{words.boi_token}{image}{words.eoi_token}\n\n"


LAYOUT = Layout(
    family="gemma3",
    model_types=("gemma3",),
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
    lm_head="lm_head",
    embed_tokens="model.language_model.embed_tokens",
    vision_tower="model.vision_tower",
    projector="model.multi_modal_projector",
    attn_adds="post_attention_layernorm",
    mlp_adds="post_feedforward_layernorm",
    image_token=image_token_of,
    sliding=True,
    token_types="token_type_ids",
    template=TURNS,
    placeholder="<start_of_image>",
    facts=(Fact("image_seq_length", lambda config: config.mm_tokens_per_image, then=write_out_image),),
)
