"""Turns as token batches: what the language model reads, what it is taught to say, and where an image stands."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from safesteer_interp.mini_training.precision import mixed
from safesteer_interp.mini_training.texts import Turn, chat_text
from safesteer_interp.models.mini.tower import N_IMAGE_TOKENS

IMAGE_TOKEN = "<image>"
IGNORED = -100
TAUGHT_TOKENS = 24
"""Whether and how to answer is decided in the first tokens; longer targets would cost time and teach the model its own prose."""


@dataclass(frozen=True)
class Example:
    """One turn as ids; image positions hold -1."""

    ids: tuple[int, ...]
    answer_start: int
    """Index of the first taught token."""


@dataclass(frozen=True)
class Batch:
    """Right-padded examples."""

    ids: Tensor
    """[batch, length]; 0 at image positions and padding."""
    attention: Tensor
    labels: Tensor
    """[batch, length]: the token taught at each position, IGNORED elsewhere."""
    image_at: Tensor
    """[batch, length] bool."""


def encode_turn(tokenizer: Any, turn: Turn, *, image: bool = False, taught: int = TAUGHT_TOKENS) -> Example:
    """Ids of the chat-templated turn; with `image`, 100 image positions and a line break stand before the user's text.

    At most `taught` tokens of the answer are taught, its end only when it ended by itself before that.
    """
    before, after = chat_text(tokenizer, IMAGE_TOKEN + "\n" + turn.user if image else turn.user, turn.system), ""
    ids: list[int] = []
    if image:
        before, after = before.split(IMAGE_TOKEN, 1)
        ids += tokenizer(before, add_special_tokens=False)["input_ids"] + [-1] * N_IMAGE_TOKENS
        ids += tokenizer(after, add_special_tokens=False)["input_ids"]
    else:
        ids += tokenizer(before, add_special_tokens=False)["input_ids"]
    answer = tokenizer(turn.answer, add_special_tokens=False)["input_ids"]
    if turn.complete:
        answer.append(tokenizer.eos_token_id)
    return Example((*ids, *answer[:taught]), len(ids))


def collate(examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
    """Pad examples on the right."""
    length = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, example in enumerate(examples):
        n = len(example.ids)
        ids[row, :n] = torch.tensor(example.ids)
        attention[row, :n] = 1
        labels[row, example.answer_start : n] = ids[row, example.answer_start : n]
    image_at = ids < 0
    return Batch(*(t.to(device) for t in (ids.clamp(min=0), attention, labels, image_at)))


def length_buckets(examples: Sequence[Example], batch: int, rng: random.Random, pool: int = 12) -> list[list[int]]:
    """Indices in batches of similar length: shuffled, sorted within pools of `pool` batches, batches shuffled."""
    order = list(range(len(examples)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch * pool):
        part = sorted(order[start : start + batch * pool], key=lambda i: len(examples[i].ids))
        batches += [part[i : i + batch] for i in range(0, len(part), batch)]
    rng.shuffle(batches)
    return batches


def answer_loss(language_model: Any, batch: Batch, features: Tensor | None = None) -> Tensor:
    """Cross-entropy of the taught tokens, averaged within every turn and then over turns, so that a word read off an image weighs as much
    as a sentence. `features` [image tokens in order, d] replace the image positions' embeddings.

    `language_model` is a LlamaForCausalLM (adapters inside it or not). Logits are made for taught positions only.
    """
    embedded = language_model.get_input_embeddings()(batch.ids)
    if features is not None:
        embedded = embedded.masked_scatter(batch.image_at[..., None], features.to(embedded.dtype))
    with mixed(embedded.device.type):
        states = language_model.model(inputs_embeds=embedded, attention_mask=batch.attention, use_cache=False).last_hidden_state
        target = batch.labels[:, 1:]
        taught = target != IGNORED
        logits = language_model.lm_head(states[:, :-1][taught])
    losses = F.cross_entropy(logits.float(), target[taught], reduction="none")
    return (losses / taught.sum(1, keepdim=True).expand_as(taught)[taught]).sum() / len(target)
