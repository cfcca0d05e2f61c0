"""PaliGemma 1 and 2 (arXiv 2407.07726, 2412.03555): SigLIP tower, linear projector, Gemma decoder with a bidirectional prompt.

The processor is the template: it writes the image tokens, "<bos>", the text and a newline. There is no system turn and no
TransformerLens adapter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, WIDTH, Built, image_token_of, random_model
from safesteer_interp.models.families.tokenizers import metaspace
from safesteer_interp.models.layout import Layout

PLAIN = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def around_text(tokenizer: Any) -> tuple[str, str]:
    """What `PaliGemmaProcessor` writes before the text and after it."""
    return tokenizer.bos_token, "\n"


def _tiny(decoder: dict[str, Any]) -> Built:
    tokenizer = metaspace(["<image>"], gemma=True, image_token="<image>")
    images = SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 28, "patch_size": 14, "vision_use_head": False},
        text_config={
            **TEXT,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": len(tokenizer),
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
            **decoder,
        },
        image_token_index=tokenizer.image_token_id,
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        vocab_size=len(tokenizer),
    )
    return random_model(PaliGemmaForConditionalGeneration, config), processor


def tiny() -> Built:
    """28-pixel images become 4 tokens; the vocabulary holds PaliGemma's 1,152 location and segmentation tokens."""
    return _tiny({"model_type": "gemma"})


def tiny2() -> Built:
    """As `tiny`, with a Gemma 2 decoder: norms after each block, logits capped by tanh."""
    sliding = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2, "query_pre_attn_scalar": 16}
    return _tiny({"model_type": "gemma2", "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, **sliding})


LAYOUT = Layout(
    family="paligemma",
    model_types=("paligemma",),
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
    lm_head="lm_head",
    embed_tokens="model.language_model.embed_tokens",
    vision_tower="model.vision_tower",
    projector="model.multi_modal_projector",
    image_token=image_token_of,
    bridge=False,
    causal=False,
    template=PLAIN,
    placeholder="<image>",
    around_text=around_text,
    token_types="token_type_ids",
    serves=lambda config: config.text_config.model_type == "gemma",
)
LAYOUT_2 = replace(
    LAYOUT,
    family="paligemma2",
    attn_adds="post_attention_layernorm",
    mlp_adds="post_feedforward_layernorm",
    sliding=True,
    serves=lambda config: config.text_config.model_type == "gemma2",
)
