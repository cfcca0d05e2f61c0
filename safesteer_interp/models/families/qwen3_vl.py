"""Qwen3-VL (arXiv 2511.21631): Qwen3 decoder with interleaved multimodal rotary positions and DeepStack.

DeepStack adds visual features *between* the first decoder layers, at image positions: there the output of layer l differs from the
input of layer l+1. Reads and edits of `resid_post` mean the layer's own output.
"""

from __future__ import annotations

from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, WIDTH, Built, image_only, image_token_of, random_model
from safesteer_interp.models.families.qwen2_5_vl import PATCHES, SPECIAL
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Layout

CHATML = (
    "{% if messages[0]['role'] == 'system' %}{{ '<|im_start|>system\n' }}"
    "{% if messages[0]['content'] is string %}{{ messages[0]['content'] }}"
    "{% else %}{% for part in messages[0]['content'] %}{% if 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}{% elif 'text' in part %}{{ part['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Same structure as Qwen3-VL's template: ChatML without a default system turn."""


def tiny() -> Built:
    """32- to 96-pixel images, 32 pixels per token; visual features are added after decoder layers 0 and 1."""
    tokenizer = byte_level(SPECIAL, eos="<|im_end|>", pad="<|endoftext|>", image_token="<|image_pad|>", video_token="<|video_pad|>")
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}, patch_size=16, merge_size=2)
    processor = image_only(Qwen3VLProcessor)(image_processor=images, tokenizer=tokenizer, chat_template=CHATML)
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad", "vision_start", "vision_end")}
    config = Qwen3VLConfig(
        vision_config={
            "depth": VISION["num_hidden_layers"],
            "hidden_size": VISION["hidden_size"],
            "intermediate_size": VISION["intermediate_size"],
            "num_heads": VISION["num_attention_heads"],
            "initializer_range": VISION["initializer_range"],
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            **TEXT,
            "head_dim": 16,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    return random_model(Qwen3VLForConditionalGeneration, config), processor


LAYOUT = Layout(
    family="qwen3_vl",
    model_types=("qwen3_vl",),
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
    processor_class=lambda: image_only(Qwen3VLProcessor),
)
