"""InternVL (arXiv 2504.10479), in transformers' own form ("-hf" checkpoints): tiles of an image, pixel shuffle, Qwen2 or Llama decoder."""

from __future__ import annotations

from typing import Any, no_type_check

from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor, ProcessorMixin
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, Built, image_token_of, named_as, random_model
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Fact, Layout

TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Same structure as InternVL3-hf's template: ChatML, a line of its own for every image."""


class _ImageOnly(InternVLProcessor):
    """InternVL's processor without its video half, which needs torchvision."""

    @no_type_check  # transformers reads the names of the parameters off the function itself, which a checking wrapper would hide
    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, image_seq_length: int = 256, chat_template: Any = None, **_: Any
    ) -> None:
        InternVLProcessor.__init__(self, image_processor, tokenizer, None, image_seq_length, chat_template=chat_template)


def processor_class() -> type[ProcessorMixin]:
    return named_as(InternVLProcessor, _ImageOnly)


def tiny() -> Built:
    """28-pixel tiles of one token each (four patches joined): one tile, or up to four and the whole picture."""
    tokenizer = byte_level(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *TOKENS.values()], eos="<|im_end|>", pad="<|endoftext|>", **TOKENS
    )
    images = GotOcr2ImageProcessorPil(size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4)
    processor = processor_class()(image_processor=images, tokenizer=tokenizer, image_seq_length=1, chat_template=CHATML)
    config = InternVLConfig(
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [14, 14]},
        text_config={
            "model_type": "qwen2",
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
        tie_word_embeddings=False,
    )
    return random_model(InternVLForConditionalGeneration, config), processor


LAYOUT = Layout(
    family="internvl",
    model_types=("internvl",),
    layers="model.language_model.layers",
    final_norm="model.language_model.norm",
    lm_head="lm_head",
    embed_tokens="model.language_model.embed_tokens",
    vision_tower="model.vision_tower",
    projector="model.multi_modal_projector",
    image_token=image_token_of,
    template=CHATML,
    placeholder="<IMG_CONTEXT>\n",
    processor_class=processor_class,
    bridge=False,
    facts=(Fact("image_seq_length", lambda config: config.image_seq_length),),
)
