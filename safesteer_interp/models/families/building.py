"""What the `tiny()` builders share: sizes, seeded random weights, a processor without its video half."""

from __future__ import annotations

from typing import Any, no_type_check

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

Built = tuple[PreTrainedModel, Any]
"""What a `tiny()` builder returns: a model with random weights, and its processor (the tokenizer for text-only decoders)."""

WIDTH, LAYERS, HEADS, KV_HEADS, MLP = 64, 4, 4, 2, 128
TEXT = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": MLP,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
}
"""Text half of every tiny model. Standard deviation 0.2 (not 0.02) makes attention and logits far from uniform."""
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "initializer_range": 0.2}


def image_only(base: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """`base` without its video processor, which needs torchvision. Saved and loaded under the same name as `base`."""

    @no_type_check  # transformers reads the names of the parameters off the function itself, which a checking wrapper would hide
    def init(self: Any, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **options: Any) -> None:
        base.__init__(self, image_processor, tokenizer, None, chat_template=chat_template, **options)

    return named_as(base, type("ImageOnly", (base,), {"__init__": init}))


def named_as(base: type[ProcessorMixin], own: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """`own` under the name of `base`: processors are saved under their class's name, and any other tool must find it."""
    return type(base.__name__, (own,), {"__doc__": own.__doc__, "__module__": __name__})


def random_model(cls: type[PreTrainedModel], config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model of class `cls` in eval mode, float32, with weights drawn from `seed` (the global generator is left as it was).

    Norm scales and biases are drawn too, so that a layout that forgets a norm cannot pass a parity test.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = cls(config)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
                elif "position" in name:
                    parameter.normal_(0, 0.2)
    return model.eval()


def image_token_of(config: Any, _processor: Any = None) -> int:
    """Id of the image placeholder, where the config states it."""
    return int(config.image_token_id)
