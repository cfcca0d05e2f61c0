"""From states to next-token logits: final norm, LM head, soft cap. One implementation for the logit lens, decoding and the load check."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from safesteer_interp.models.anatomy import Anatomy


def soft_cap(model: PreTrainedModel, logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """The logits as the model gives them out: squashed by tanh where its config says so (Gemma 2), else as they are."""
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def output_logits(model: PreTrainedModel, states: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows vocab"]:
    """Next-token logits (float32) of states after the final norm, on a plain transformers model."""
    return soft_cap(model, model.get_output_embeddings()(states).float())


def logits(mllm: Anatomy, states: Float[Tensor, "*rows d"], *, normed: bool = True) -> Float[Tensor, "*rows vocab"]:
    """Next-token logits (float32) that states would give: of site `final_norm` when `normed`, else of the residual stream.

    Unnormed states pass the final norm first, as the logit lens wants (arXiv 2502.14744 section 3).
    """
    return soft_cap(mllm.model, mllm.lm_head(states if normed else mllm.final_norm(states)).float())
