"""Qwen2-VL (arXiv 2409.12191): as Qwen2.5-VL, with full attention in the vision tower and a config of its own."""

from __future__ import annotations

from dataclasses import replace

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from safesteer_interp.models.families import qwen2_5_vl
from safesteer_interp.models.families.building import TEXT, VISION, WIDTH, Built, image_only, random_model
from safesteer_interp.models.families.tokenizers import byte_level


def tiny() -> Built:
    """28- to 84-pixel images, 28 pixels per token: 1 to 9 image tokens, so that rows of one batch differ."""
    tokenizer = byte_level(
        qwen2_5_vl.SPECIAL, eos="<|im_end|>", pad="<|endoftext|>", image_token="<|image_pad|>", video_token="<|video_pad|>"
    )
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}, patch_size=14, merge_size=2)
    processor = image_only(Qwen2VLProcessor)(image_processor=images, tokenizer=tokenizer, chat_template=qwen2_5_vl.CHATML)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end")}
    config = Qwen2VLConfig(
        vision_config={
            "depth": VISION["num_hidden_layers"],
            "embed_dim": VISION["hidden_size"],
            "num_heads": VISION["num_attention_heads"],
            "initializer_range": VISION["initializer_range"],
            "mlp_ratio": 2,
            "hidden_size": WIDTH,
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
    return random_model(Qwen2VLForConditionalGeneration, config), processor


LAYOUT = replace(
    qwen2_5_vl.LAYOUT,
    family="qwen2_vl",
    model_types=("qwen2_vl",),
    processor_class=lambda: image_only(Qwen2VLProcessor),
    bridge=False,
)
