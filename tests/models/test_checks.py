"""Load-time checks: the right entry of every family passes, and each kind of wrong entry is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from safesteer_interp.errors import InputError
from safesteer_interp.models.checks import check_layout
from safesteer_interp.models.families import FAMILIES
from safesteer_interp.models.mllm import MLLM

Tiny = Callable[[str], MLLM]


@pytest.mark.parametrize("family", FAMILIES)
def test_right_entry_passes_and_leaves_no_hook(tiny: Tiny, family: str) -> None:
    mllm = tiny(family)
    check_layout(mllm)  # the first forward also makes transformers install hooks of its own
    before = [len(module._forward_hooks) for module in mllm.model.modules()]
    check_layout(mllm)
    assert [len(module._forward_hooks) for module in mllm.model.modules()] == before


def test_logits_that_are_not_the_heads_output_are_refused(tiny: Tiny) -> None:
    """A cap on the logits that the config does not tell of."""
    mllm = tiny("paligemma2")
    text = mllm.model.config.text_config
    cap = text.final_logit_softcapping
    original = mllm.lm_head.forward
    try:
        mllm.lm_head.forward = lambda state: original(state) / 100  # far from saturation, so that a cap would show
        text.final_logit_softcapping = None
        check_layout(mllm)
        handle = mllm.model.register_forward_hook(lambda _, args, output: type(output)(logits=output.logits * 2))
        with pytest.raises(InputError, match="the head's output is not the model's logits"):
            check_layout(mllm)
        handle.remove()
    finally:
        del mllm.lm_head.forward
        text.final_logit_softcapping = cap


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("llava", {"layers": "model.vision_tower.encoder.layers"}, "holds 2 modules, but the decoder has 4 layers"),
    ("llava", {"layers": "model.language_model"}, "is not a list of layers"),
    ("llava", {"layers": "model.text_model.layers"}, 'has no submodule "text_model"'),
    ("llava", {"final_norm": "model.language_model.layers.3.input_layernorm"}, "does not receive what the last layer returns"),
    ("llava", {"final_norm": "model.vision_tower.post_layernorm"}, "was never called in a text-only forward"),
    ("llava", {"lm_head": "model.language_model.embed_tokens"}, "does not receive what the final norm returns"),
    ("llava", {"embed_tokens": "model.vision_tower.embeddings.position_embedding"}, r"but \[vocabulary, 64\] was expected"),
    ("llava", {"image_token": None}, "no image token"),
    ("llava", {"image_token": lambda config, processor: 10**6}, "id 1000000 is not in the tokenizer's vocabulary"),
    ("llava", {"attention": "mlp"}, "is not the layer's output"),
    ("llava", {"mlp": "feed_forward"}, 'has no submodule "feed_forward"'),
    ("gemma3", {"attn_adds": None}, "is not the layer's output"),
    ("paligemma2", {"mlp_adds": None}, "is not the layer's output"),
    ("qwen3_vl", {"vision_tower": "model.vision_tower"}, 'has no submodule "vision_tower"'),
]


@pytest.mark.parametrize(("family", "change", "reason"), WRONG)
def test_wrong_entry_is_refused_with_the_reason(tiny: Tiny, family: str, change: dict[str, Any], reason: str) -> None:
    mllm = tiny(family)
    before = [len(module._forward_hooks) for module in mllm.model.modules() if "Layer" in type(module).__name__]
    with pytest.raises(InputError, match=reason):
        check_layout(replace(mllm, layout=replace(mllm.layout, **change)))
    assert [len(module._forward_hooks) for module in mllm.model.modules() if "Layer" in type(module).__name__] == before


def test_vision_layers_of_equal_number_are_refused(tiny: Tiny) -> None:
    """A tower as deep as the decoder passes the count, but is not called by a text."""
    mllm = tiny("qwen2_5_vl")
    blocks = mllm.model.model.visual.blocks
    text = mllm.model.config.text_config
    before = text.num_hidden_layers
    try:
        text.num_hidden_layers = len(blocks)
        with pytest.raises(InputError, match="was never called in a text-only forward"):
            check_layout(replace(mllm, layout=replace(mllm.layout, layers="model.visual.blocks", attention="attn")))
    finally:
        text.num_hidden_layers = before


def test_a_layer_that_does_nothing_downstream_is_refused(tiny: Tiny) -> None:
    """Layers whose output nobody uses: the next one does not receive it."""
    mllm = tiny("llama")
    layers = mllm.model.model.layers
    handle = layers[2].register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
    try:
        with pytest.raises(InputError, match="layer 2 does not receive what layer 1 returns"):
            check_layout(mllm)
    finally:
        handle.remove()
