"""Special tokens by their ids: what pads, and what ends an answer."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from safesteer_interp.errors import InputError
from safesteer_interp.models.anatomy import Anatomy, embedding_rows


def stop_ids(mllm: Anatomy) -> frozenset[int]:
    """Token ids that end an answer: the generation config's and the tokenizer's.

    A hub repository may change its generation_config.json, and with it where answers end, without touching the weights: whatever
    depends on answers belongs under a key that holds these ids too.
    """
    configured = mllm.model.generation_config.eos_token_id if mllm.model.generation_config is not None else None
    ids = [configured] if isinstance(configured, int) else list(configured or [])
    own = getattr(mllm.tokenizer, "eos_token_id", None)
    return frozenset(ids if own is None else [*ids, own])


def further_stops(mllm: Anatomy) -> list[int]:
    """The `stop_ids` beyond the tokenizer's own, sorted: what a key has to hold beside the fingerprint, which covers the tokenizer.

    None of a served model, whose server ends its answers.
    """
    if getattr(mllm.model, "generation_config", None) is None:
        return []
    return sorted(stop_ids(mllm) - {getattr(mllm.tokenizer, "eos_token_id", None)})


def set_padding(model: PreTrainedModel, tokenizer: Any, name: str) -> None:
    """Pad on the left, with a token that has a row in the embedding. What a pad is reaches no live row.

    Raises InputError when the tokenizer's pad has none (it was added to the tokenizer alone) and no other special token can stand in.
    """
    tokenizer.padding_side = "left"
    rows = embedding_rows(model)
    if tokenizer.pad_token is not None and tokenizer.pad_token_id < rows:
        return
    usable = [id_ for id_ in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id) if id_ is not None and id_ < rows]
    if usable:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(usable[0])
    elif tokenizer.pad_token is not None:
        raise InputError(
            f'{name}: its tokenizer pads with "{tokenizer.pad_token}", id {tokenizer.pad_token_id}, but the model\'s embedding has {rows} '
            "rows and no end-of-text token that could stand in; resize the embedding and save the model again, or name another pad_token "
            "in tokenizer_config.json."
        )
