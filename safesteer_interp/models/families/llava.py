"""LLaVA 1.5 (arXiv 2310.03744): CLIP vision tower, two-layer projector, Llama decoder. `mini` and `planted` are of this family."""

from __future__ import annotations

from transformers import CLIPImageProcessorPil, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from safesteer_interp.models.families.building import TEXT, VISION, Built, image_token_of, random_model
from safesteer_interp.models.families.tokenizers import metaspace
from safesteer_interp.models.layout import Fact, Layout

VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""Same structure as the template of llava-1.5-7b-hf: images first, a trailing space after every text, no role word for system."""


def tiny() -> Built:
    """28-pixel images become 4 tokens; the CLS feature is dropped, as in LLaVA 1.5."""
    tokenizer = metaspace(["<image>"], gemma=False, image_token="<image>")
    images = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=VICUNA,
        num_additional_image_tokens=1,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14, projection_dim=32).to_dict(),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=3).to_dict(),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=4,
    )
    return random_model(LlavaForConditionalGeneration, config), processor


LAYOUT = Layout(
    family="llava",
    model_types=("llava",),
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
    lm_head="lm_head",
    embed_tokens="model.language_model.embed_tokens",
    vision_tower="model.vision_tower",
    projector="model.multi_modal_projector",
    image_token=image_token_of,
    template=VICUNA,
    placeholder="<image>\n",
    facts=(
        Fact("patch_size", lambda config: config.vision_config.patch_size),
        Fact("vision_feature_select_strategy", lambda config: config.vision_feature_select_strategy),
        # CLIP puts a class token in front of the patches; the strategy "default" takes it off again
        Fact("num_additional_image_tokens", lambda config: int(config.vision_config.model_type == "clip_vision_model")),
    ),
)
