"""LLaVA-NeXT (LLaVA 1.6, the successor of arXiv 2310.03744): tiles of an image beside the whole of it; Llama, Mistral or Qwen decoder."""

from __future__ import annotations

from dataclasses import replace

from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from safesteer_interp.models.families import llava
from safesteer_interp.models.families.building import TEXT, VISION, Built, random_model
from safesteer_interp.models.families.tokenizers import metaspace

PINPOINTS = [[28, 56], [56, 28], [56, 56]]
"""Sizes an image may be cut into tiles at: [height, width] in pixels."""


def tiny() -> Built:
    """28-pixel tiles of 4 tokens: the whole image and up to four tiles, a mark at the end of every row."""
    tokenizer = metaspace(["<image>"], gemma=False, image_token="<image>")
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS)
    processor = LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=llava.VICUNA,
        num_additional_image_tokens=1,
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14, projection_dim=32).to_dict(),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3).to_dict(),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=PINPOINTS,
        image_seq_length=4,
    )
    return random_model(LlavaNextForConditionalGeneration, config), processor


LAYOUT = replace(llava.LAYOUT, family="llava_next", model_types=("llava_next",))
