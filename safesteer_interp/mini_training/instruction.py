"""Stage 3, visual instruction: the text-aligned language model learns to use the tower, on harmless images only.

Three projector recipes, because how image tokens lie among text embeddings decides how far refusal carries over to images:

- `grounded`: the projector of stage 1 stays as it is, so image tokens look like text embeddings; only a low-rank adapter learns.
- `released`: it starts there and is then trained freely by the language model's loss, without the regression onto embeddings.
- `lm_loss`: a fresh projector, the language model's loss alone: how LLaVA does it, and slow.

As in real visual tuning there is no safety data among the images. Text-only turns of stage 2 are replayed, since the stage erodes
text refusals otherwise (measured: 58 of 60 fell to 9 of 22 for bare phrases).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import nn

from safesteer_interp.files import write_bytes
from safesteer_interp.mini_training.batches import Example, answer_loss, collate, encode_turn
from safesteer_interp.mini_training.grounding import new_projector, to_pixels
from safesteer_interp.mini_training.resume import Checkpoint, Report, cosine, set_rate
from safesteer_interp.mini_training.scenes import Scenes, VisualTurn
from safesteer_interp.mini_training.texts import Turn, alignment_turns
from safesteer_interp.models.mini.lora import attach, save_adapter
from safesteer_interp.models.mini.tower import SafesteerTower


class ProjectorRecipe(StrEnum):
    """What happens to the projector in stage 3."""

    GROUNDED = "grounded"
    RELEASED = "released"
    LM_LOSS = "lm_loss"


@dataclass(frozen=True)
class InstructionRecipe:
    """How stage 3 is trained."""

    projector: ProjectorRecipe = ProjectorRecipe.RELEASED
    samples: int = 6000
    """Visual turns."""
    replay: float = 0.75
    """Text-only turns per visual turn."""
    replay_harmless: float = 0.6
    """Share of stage 2's harmless prompts that are replayed in each round: the visual turns are harmless too, and answering is catching."""
    batch: int = 8
    rate: float = 4e-4
    projector_scale: float = 0.15
    """Learning rate of a projector that starts grounded, relative to the adapter's (at 2.0 it forgot how to read within 100 steps)."""
    fresh_scale: float = 2.0
    """The same for a fresh projector."""
    rank: int = 8
    taught: int = 41
    """Answer tokens taught at most: whole answers (`texts.ANSWER_TOKENS` and the end), so that mini learns to stop."""
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.samples // self.batch


def text_turns(scenes: Scenes, seed: int, harmless: float = 1.0) -> Iterator[Turn]:
    """The text-only turns of stage 2, epoch after epoch, each with a share of the harmless ones."""
    epoch = 0
    while True:
        yield from alignment_turns(scenes.answers, random.Random(seed * 1000 + 500 + epoch), harmless=harmless)
        epoch += 1


def schedule(scenes: Scenes, recipe: InstructionRecipe, tokenizer: Any) -> Iterator[tuple[list[VisualTurn], list[Example], list[Example]]]:
    """Per step: visual turns, their examples, and text-only examples; drawn in pools sorted by length, so that little is padding."""
    rng = random.Random(recipe.seed * 7919 + 1)
    texts = text_turns(scenes, recipe.seed, recipe.replay_harmless)
    while True:
        turns = [scenes.draw(rng) for _ in range(recipe.batch * 8)]
        shown = [(t, encode_turn(tokenizer, t.turn, image=True, taught=recipe.taught)) for t in turns]
        shown.sort(key=lambda pair: len(pair[1].ids))
        replay = [encode_turn(tokenizer, next(texts), taught=recipe.taught) for _ in range(round(recipe.replay * len(turns)))]
        replay.sort(key=lambda e: len(e.ids))
        order = list(range(8))
        rng.shuffle(order)
        for k in order:
            part = shown[k * recipe.batch : (k + 1) * recipe.batch]
            text = replay[k * len(replay) // 8 : (k + 1) * len(replay) // 8]
            yield [t for t, _ in part], [e for _, e in part], text


def train_instruction(
    model: Any, tokenizer: Any, tower: SafesteerTower, projector: nn.Module, scenes: Scenes, recipe: InstructionRecipe, folder: Path
) -> tuple[Any, nn.Module]:
    """Run or resume stage 3 on a text-aligned `model`; writes `<recipe>_adapter.safetensors` and `<recipe>_projector.safetensors`.

    The tower is frozen. Returns the peft-wrapped language model and the projector, both in eval mode.
    """
    kind = recipe.projector
    torch.manual_seed(recipe.seed)
    if kind is ProjectorRecipe.LM_LOSS:
        projector = new_projector(tower.config.hidden_size, model.config.hidden_size, activation="linear")
    device = model.device
    tower.to(device)
    projector.to(device)
    projector.requires_grad_(kind is not ProjectorRecipe.GROUNDED)
    wrapped = attach(model, recipe.rank, 2 * recipe.rank, recipe.seed + 1).train()
    adapter = [p for p in wrapped.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": adapter}]
    free = [p for p in projector.parameters() if p.requires_grad]
    if free:
        scale = recipe.fresh_scale if kind is ProjectorRecipe.LM_LOSS else recipe.projector_scale
        groups.append({"params": free, "scale": scale})
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=0.01)
    checkpoint = Checkpoint(folder / f"instruction-{kind}.safetensors", {"adapter": wrapped, "projector": projector}, optimizer)
    start = checkpoint.load()
    report = Report(f"instruction {kind}", recipe.steps, start)
    stream = schedule(scenes, recipe, tokenizer)
    for step in range(recipe.steps):
        turns, examples, text = next(stream)
        if step < start:
            continue  # the stream is replayed so that a resumed run sees what an uninterrupted one would
        with torch.no_grad():
            seen = tower(to_pixels(np.stack([t.image for t in turns])).to(device)).last_hidden_state
        features = projector(seen.reshape(-1, seen.shape[-1]))
        visual = answer_loss(wrapped.base_model.model, collate(examples, device), features)
        set_rate(optimizer, cosine(step, recipe.steps, recipe.rate, min(20, recipe.steps // 5)))
        optimizer.zero_grad(set_to_none=True)
        visual.backward()
        spoken = torch.zeros(())
        if text:
            spoken = answer_loss(wrapped.base_model.model, collate(text, device))
            (spoken * (len(text) / len(turns))).backward()
        nn.utils.clip_grad_norm_([*adapter, *free], 1.0)
        optimizer.step()
        report(step + 1, image_loss=float(visual.detach()), text_loss=float(spoken.detach()))
        if (step + 1) % 25 == 0 or step + 1 == recipe.steps:
            checkpoint.save(step + 1)
    save_adapter(wrapped, folder / f"{kind}_adapter.safetensors")
    halves = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in projector.state_dict().items()}
    write_bytes(folder / f"{kind}_projector.safetensors", save(halves))
    return wrapped.eval(), projector.eval()
