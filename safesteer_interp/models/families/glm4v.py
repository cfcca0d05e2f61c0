"""GLM-4V (GLM-4.1V, arXiv 2507.01006): patch merger as in Qwen-VL, GLM-4 decoder with norms after its blocks."""

from __future__ import annotations

from dataclasses import replace

from transformers import Glm4vConfig, Glm4vForConditionalGeneration, Glm4vProcessor
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

from safesteer_interp.models.families import qwen2_5_vl
from safesteer_interp.models.families.building import TEXT, VISION, WIDTH, Built, image_only, random_model
from safesteer_interp.models.families.tokenizers import byte_level

ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
IMAGE = ["<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|video|>", "<|end_of_video|>"]
TURNS = (
    "{{ '[gMASK]<sop>' }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|begin_of_image|><|image|><|end_of_image|>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Same structure as GLM-4.1V's template: a role's mark and a new line, and nothing at the end of a turn."""


def tiny() -> Built:
    """28- to 84-pixel images, 28 pixels per token: 1 to 9 image tokens, so that rows of one batch differ."""
    special = ["<|endoftext|>", "[gMASK]", "<sop>", *ROLES, *IMAGE]
    tokenizer = byte_level(special, eos="<|user|>", pad="<|endoftext|>", image_token="<|image|>", video_token="<|video|>")
    images = Glm4vImageProcessorPil(size={"shortest_edge": 2 * 28 * 28, "longest_edge": 2 * 84 * 84}, patch_size=14, merge_size=2)
    processor = image_only(Glm4vProcessor)(image_processor=images, tokenizer=tokenizer, chat_template=TURNS)
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in IMAGE}
    config = Glm4vConfig(
        vision_config={
            "depth": VISION["num_hidden_layers"],
            "hidden_size": VISION["hidden_size"],
            "intermediate_size": VISION["intermediate_size"],
            "num_heads": VISION["num_attention_heads"],
            "initializer_range": VISION["initializer_range"],
            "image_size": 84,
            "out_hidden_size": WIDTH,
        },
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]},
        },
        image_token_id=ids["<|image|>"],
        image_start_token_id=ids["<|begin_of_image|>"],
        image_end_token_id=ids["<|end_of_image|>"],
        video_token_id=ids["<|video|>"],
        video_start_token_id=ids["<|begin_of_video|>"],
        video_end_token_id=ids["<|end_of_video|>"],
    )
    return random_model(Glm4vForConditionalGeneration, config), processor


LAYOUT = replace(
    qwen2_5_vl.LAYOUT,
    family="glm4v",
    model_types=("glm4v",),
    attn_adds="post_self_attn_layernorm",
    mlp_adds="post_mlp_layernorm",
    template=TURNS,
    placeholder="<|begin_of_image|><|image|><|end_of_image|>",
    processor_class=lambda: image_only(Glm4vProcessor),
    bridge=False,
)
