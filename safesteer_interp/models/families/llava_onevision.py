"""LLaVA-OneVision (arXiv 2408.03326): SigLIP tower, tiles of an image beside the whole of it, Qwen2 decoder."""

from __future__ import annotations

from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, Built, image_only, image_token_of, random_model
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Fact, Layout

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Same structure as the template of llava-onevision-qwen2: a space after the role, images first, every text on a line of its own."""
PINPOINTS = [[28, 56], [56, 28], [56, 56]]


def tiny() -> Built:
    """28-pixel tiles of 4 tokens: the whole image and up to four tiles, a mark at the end of every row."""
    tokenizer = byte_level(SPECIAL, eos="<|im_end|>", pad="<|endoftext|>", image_token="<image>", video_token="<video>")
    images = LlavaOnevisionImageProcessorPil(size={"height": 28, "width": 28}, image_grid_pinpoints=PINPOINTS)
    processor = image_only(LlavaOnevisionProcessor)(
        image_processor=images, tokenizer=tokenizer, num_image_tokens=4, vision_feature_select_strategy="full", chat_template=CHATML
    )
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 28, "patch_size": 14, "vision_use_head": False},
        text_config={
            "model_type": "qwen2",
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=PINPOINTS,
    )
    return random_model(LlavaOnevisionForConditionalGeneration, config), processor


def tokens_of_tile(config: object) -> int:
    """Image tokens of one tile: its patches."""
    vision = config.vision_config  # type: ignore[attr-defined]
    return int((vision.image_size // vision.patch_size) ** 2)


LAYOUT = Layout(
    family="llava_onevision",
    model_types=("llava_onevision",),
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
    lm_head="lm_head",
    embed_tokens="model.language_model.embed_tokens",
    vision_tower="model.vision_tower",
    projector="model.multi_modal_projector",
    image_token=image_token_of,
    template=CHATML,
    placeholder="<image>",
    processor_class=lambda: image_only(LlavaOnevisionProcessor),
    facts=(
        Fact("num_image_tokens", tokens_of_tile),
        Fact("vision_feature_select_strategy", lambda config: config.vision_feature_select_strategy),
    ),
)
