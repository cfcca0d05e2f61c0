"""Stage 2, text safety alignment: a low-rank adapter that refuses harmful requests and answers the rest as before. No image is seen.

Harmful activities get short refusals; harmless ones, among them the twins of the harmful ones and everyday uses of frightening words,
get the unmodified model's own answers, so that little but the refusal is new (measured without contrast examples: "blow up a
balloon" was refused).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from safesteer_interp.mini_training.batches import Example, answer_loss, collate, encode_turn, length_buckets
from safesteer_interp.mini_training.drawing import drawn_ahead
from safesteer_interp.mini_training.resume import Checkpoint, Every, Pace, Report, cosine, set_rate
from safesteer_interp.mini_training.texts import OwnAnswers, alignment_turns
from safesteer_interp.models.mini.lora import attach, save_adapter


@dataclass(frozen=True)
class Phase:
    """Some epochs with a learning rate of their own (warm-up and cosine decay)."""

    epochs: int
    rate: float
    taught: int
    """Answer tokens taught at most."""


@dataclass(frozen=True)
class AlignmentRecipe:
    """How the text adapter is trained, phase after phase."""

    phases: tuple[Phase, ...] = (Phase(1, 5e-4, 12),)
    """Many activities once. Earlier trainings on two cores: seven epochs of 2,300 harmful ones (at 1e-3) learnt them by heart and refused
    0.71 of the fit pairs' harmful texts, one epoch of 7,700 refused 0.84 (and 0.10 of the twins, before 0.07)."""
    batch: int = 16
    rank: int = 8
    seed: int = 0
    scale: float = 1.0
    """Share of the training texts that is used."""


def train_alignment(
    model: Any,
    tokenizer: Any,
    answers: OwnAnswers,
    recipe: AlignmentRecipe,
    folder: Path,
    *,
    workers: int = 0,
    seconds: float | None = None,
) -> Any:
    """Run or resume stage 2; writes `folder/text_adapter.safetensors` and returns the peft-wrapped model in eval mode.

    `workers` processes make the batches; with `seconds` the phases end by then, each after its share.
    """
    wrapped = attach(model, recipe.rank, 2 * recipe.rank, recipe.seed).train()
    epochs = sum(phase.epochs for phase in recipe.phases)
    for number, phase in enumerate(recipe.phases):
        share = None if seconds is None else seconds * phase.epochs / epochs
        _train_phase(wrapped, tokenizer, answers, recipe, number, folder, workers, share)
        save_adapter(wrapped, folder / "text_adapter.safetensors")
    return wrapped.eval()


def epoch_batches(tokenizer: Any, answers: OwnAnswers, recipe: AlignmentRecipe, number: int, epoch: int) -> list[list[Example]]:
    """The batches of one epoch of phase `number`; the seed decides them."""
    rng = random.Random(recipe.seed * 1000 + number * 100 + epoch)
    taught = recipe.phases[number].taught
    examples = [encode_turn(tokenizer, t, taught=taught) for t in alignment_turns(answers, rng, recipe.scale)]
    return [[examples[i] for i in part] for part in length_buckets(examples, recipe.batch, rng)]


def _train_phase(
    wrapped: Any,
    tokenizer: Any,
    answers: OwnAnswers,
    recipe: AlignmentRecipe,
    number: int,
    folder: Path,
    workers: int,
    seconds: float | None,
) -> None:
    phase = recipe.phases[number]
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=phase.rate, weight_decay=0.01)
    checkpoint = Checkpoint(folder / f"alignment-{number}.safetensors", {"adapter": wrapped}, optimizer)
    start, step = checkpoint.load(), 0
    epochs = drawn_ahead(
        lambda epoch: epoch_batches(tokenizer, answers, recipe, number, epoch), 0, phase.epochs, min(workers, phase.epochs)
    )
    first = next(epochs)
    # epochs differ by a batch at most, where a form of a phrase was drawn again
    total = len(first) * phase.epochs
    report = Report(f"alignment {number + 1}/{len(recipe.phases)}", total, start)
    pace, due = Pace(total, seconds, checkpoint.place, start), Every()
    for batch in (batch for epoch in chain([first], epochs) for batch in epoch):
        step += 1
        if step <= start:
            continue
        if (now := pace.at(start)) >= total:
            break
        loss = answer_loss(wrapped.base_model.model, collate(batch, wrapped.device))
        set_rate(optimizer, cosine(now, total, phase.rate, min(20, total // 5)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        start = step
        report(start, loss=loss.detach())
        if due():
            checkpoint.save(start, pace.at(start))
    checkpoint.save(start, total)
