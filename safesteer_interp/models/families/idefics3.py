"""Idefics3 (arXiv 2408.12637) and SmolVLM (arXiv 2504.05299): tiles of an image, pixel shuffle, Llama decoder at `model.text_model`."""

from __future__ import annotations

from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, SmolVLMProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from safesteer_interp.models.families.building import TEXT, VISION, finished, image_only, image_token_of, random_model
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.layout import Layout
from safesteer_interp.models.mllm import MLLM

TURNS = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""Same structure as the template of Idefics3 and SmolVLM: capitalised roles, no space between the colon and an image."""
_TILES = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]


def tiny() -> MLLM:
    """Images are cut into 56-pixel tiles (at most 2 x 2) plus the whole picture, 4 tokens each."""
    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    special = ["<|endoftext|>", "<|im_start|>", *marks, *_TILES]
    tokenizer = byte_level(special, eos="<end_of_utterance>", pad="<|endoftext|>", bos="<|im_start|>", image_token="<image>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    processor = Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=4, chat_template=TURNS)
    config = Idefics3Config(
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
    return finished(LAYOUT, random_model(Idefics3ForConditionalGeneration, config), processor)


LAYOUT = Layout(
    family="idefics3",
    model_types=("idefics3", "smolvlm"),
    layers="model.text_model.layers",
    final_norm="model.text_model.norm",
    lm_head="lm_head",
    embed_tokens="model.text_model.embed_tokens",
    vision_tower="model.vision_model",
    projector="model.connector",
    image_token=image_token_of,
    template=TURNS,
    processor_class=lambda: image_only(SmolVLMProcessor),
    tiny=tiny,
)
