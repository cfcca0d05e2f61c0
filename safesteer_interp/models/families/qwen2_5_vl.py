"""Qwen2.5-VL (arXiv 2502.13923): window-attention vision tower, patch merger, Qwen2 decoder with multimodal rotary positions."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, WIDTH, Built, image_only, image_token_of, random_model
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Fact, Layout

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Same structure as Qwen2.5-VL's template: ChatML with a default system turn."""


def tiny() -> Built:
    """28- to 84-pixel images, 28 pixels per token: 1 to 9 image tokens, so that rows of one batch differ."""
    tokenizer = byte_level(SPECIAL, eos="<|im_end|>", pad="<|endoftext|>", image_token="<|image_pad|>", video_token="<|video_pad|>")
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}, patch_size=14, merge_size=2)
    processor = image_only(Qwen2_5_VLProcessor)(image_processor=images, tokenizer=tokenizer, chat_template=CHATML)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end")}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": VISION["num_hidden_layers"],
            "hidden_size": VISION["hidden_size"],
            "intermediate_size": VISION["intermediate_size"],
            "num_heads": VISION["num_attention_heads"],
            "initializer_range": VISION["initializer_range"],
            "out_hidden_size": WIDTH,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    return random_model(Qwen2_5_VLForConditionalGeneration, config), processor


PATCHES = (
    Fact("patch_size", lambda config: config.vision_config.patch_size, of_images=True),
    Fact("temporal_patch_size", lambda config: config.vision_config.temporal_patch_size, of_images=True),
    Fact("merge_size", lambda config: config.vision_config.spatial_merge_size, of_images=True),
)
"""How Qwen-VL cuts an image into patches, and how many of them become one token."""

LAYOUT = Layout(
    family="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
    lm_head="lm_head",
    embed_tokens="model.language_model.embed_tokens",
    vision_tower="model.visual",
    projector="model.visual.merger",
    image_token=image_token_of,
    mrope=True,
    template=CHATML,
    image_size="area",
    placeholder="<|vision_start|><|image_pad|><|vision_end|>",
    facts=PATCHES,
    processor_class=lambda: image_only(Qwen2_5_VLProcessor),
)
