"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): tiles of an image, pixel shuffle, Llama decoder at `model.text_model`.

The two have one layout; SmolVLM's processor also reads videos, and TransformerLens 4.3 has no adapter for it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, no_type_check

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMProcessor,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, Built, image_token_of, named_as, random_model
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Fact, Layout

TURNS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Same structure as the template of Idefics3 and SmolVLM: capitalised roles, no space between the colon and an image."""
_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


class _ImageOnly(SmolVLMProcessor):
    """SmolVLM's processor without its video half, which needs torchvision and num2words."""

    @no_type_check  # transformers reads the names of the parameters off the function itself, which a checking wrapper would hide
    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, image_seq_len: int = 169, chat_template: Any = None, **_: Any
    ) -> None:
        self.fake_image_token = "<fake_token_around_image>"
        self.image_token = "<image>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.end_of_utterance_token = "<end_of_utterance>"
        self.global_image_token = "<global-img>"
        self.image_seq_len = image_seq_len
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def apply_chat_template(self, *args: Any, **options: Any) -> Any:
        """As every processor's: SmolVLM's own asks the video half for its frame rate first."""
        return ProcessorMixin.apply_chat_template(self, *args, **options)


def _tiny(
    configuration: type[PreTrainedConfig],
    architecture: type[PreTrainedModel],
    images: Any,
    processor_class: type[ProcessorMixin],
) -> Built:
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    special = ["<|endoftext|>", "<|im_start|>", *marks, *_TILES]
    tokenizer = byte_level(special, eos="<end_of_utterance>", pad="<|endoftext|>", bos="<|im_start|>", image_token="<image>")
    processor = processor_class(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=TURNS)
    config = configuration(
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        text_config={
            "model_type": "llama",
            **TEXT,
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    return random_model(architecture, config), processor


def tiny() -> Built:
    """Images are cut into 56-pixel tiles (at most 2 x 2) plus the whole picture, 4 tokens each."""
    images = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return _tiny(Idefics3Config, Idefics3ForConditionalGeneration, images, Idefics3Processor)


def tiny_smolvlm() -> Built:
    """As `tiny`, of SmolVLM's classes."""
    images = SmolVLMImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return _tiny(SmolVLMConfig, SmolVLMForConditionalGeneration, images, named_as(SmolVLMProcessor, _ImageOnly))


def tokens_per_tile(config: Any) -> int:
    """Image tokens of one tile: its patches, after the pixel shuffle has joined scale_factor x scale_factor of them."""
    vision = config.vision_config
    return int((vision.image_size // vision.patch_size) ** 2 / config.scale_factor**2)


LAYOUT = Layout(
    family="idefics3",
    model_types=("idefics3",),
    layers="model.text_model.layers",
    final_norm="model.text_model.norm",
    lm_head="lm_head",
    embed_tokens="model.text_model.embed_tokens",
    vision_tower="model.vision_model",
    projector="model.connector",
    image_token=image_token_of,
    template=TURNS,
    image_size="edge",
    placeholder="<image>",
    facts=(Fact("image_seq_len", tokens_per_tile),),
)
SMOLVLM = replace(
    LAYOUT,
    family="smolvlm",
    model_types=("smolvlm",),
    processor_class=lambda: named_as(SmolVLMProcessor, _ImageOnly),
    video_needs=("torchvision", "num2words"),
)
