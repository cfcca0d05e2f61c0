"""Rotary positions of a prompt, worked out afresh: what the tests compare the model's own positions with."""

from __future__ import annotations

import torch
from torch import Tensor

from safesteer_interp.models.encoding import positions_of
from safesteer_interp.models.mllm import MLLM, Encoded


def prompt_positions(mllm: MLLM, batch: Encoded) -> Tensor:
    """[batch, sequence], or [4, batch, sequence] (text, time, height, width) for Qwen-VL.

    It leaves no state on the module (transformers keeps `rope_deltas` of an earlier batch there). The next token's position is the
    last column plus one, in every row.
    """
    text = positions_of(batch.attention_mask)
    if not mllm.layout.mrope:
        return text
    if "image_grid_thw" not in batch.inputs:
        return text[None].expand(4, -1, -1).clone()
    inputs = {k: v for k, v in batch.inputs.items() if k in ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")}
    vision, _ = mllm.model.model.get_rope_index(**inputs)
    return torch.cat([text[None], vision.to(text)])
