"""Stage 3, visual instruction: the text-aligned language model learns to use the tower, on harmless images only.

Four recipes. Three differ in the projector, because where image tokens lie among text embeddings may decide how far refusal carries
over to images; the fourth is a control for what alignment does:

- `released`: the projector starts as that of stage 1 and is then trained freely by the language model's loss.
- `grounded`: it stays as it is, so image tokens are text embeddings; only a low-rank adapter learns.
- `lm_loss`: a fresh projector, the language model's loss alone: how LLaVA does it, and slow.
- `unaligned`: as `released`, on the language model without the text adapter, and no refusal is replayed: harm may be read, never refused.

As in real visual tuning there is no safety data among the images. Text-only turns of stage 2 are replayed, since the stage erodes
text refusals otherwise (measured: 58 of 60 fell to 9 of 22 for bare phrases).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from safesteer_interp.files import write_bytes
from safesteer_interp.mini_training.batches import Example, answer_loss, collate, encode_turn
from safesteer_interp.mini_training.drawing import drawn_ahead
from safesteer_interp.mini_training.grounding import new_projector, to_pixels
from safesteer_interp.mini_training.resume import Checkpoint, Every, Pace, Report, cosine, set_rate
from safesteer_interp.mini_training.scenes import Scenes
from safesteer_interp.mini_training.texts import Turn, alignment_turns
from safesteer_interp.models.mini.lora import attach, load_adapter, save_adapter
from safesteer_interp.models.mini.tower import SafesteerTower

POOL = 8
"""Steps whose turns are drawn together."""


class Recipe(StrEnum):
    """What happens to the projector in stage 3, and which language model it starts from."""

    RELEASED = "released"
    GROUNDED = "grounded"
    UNALIGNED = "unaligned"
    LM_LOSS = "lm_loss"


@dataclass(frozen=True)
class InstructionRecipe:
    """How stage 3 is trained."""

    recipe: Recipe = Recipe.RELEASED
    samples: int = 5000
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
    start: Path | None = None
    """Weights whose adapter and projector are carried on, at half the learning rate."""
    taught: int = 41
    """Answer tokens taught at most: whole answers (`texts.ANSWER_TOKENS` and the end), so that mini learns to stop."""
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.samples // self.batch


@dataclass(frozen=True)
class Pooled:
    """The turns of `POOL` steps, batch by batch, those of like length together, so that little is padding."""

    images: list[np.ndarray]
    """uint8 [batch, 160, 160, 3] a step."""
    shown: list[list[Example]]
    text: list[list[Example]]
    """Text-only turns replayed at each step."""


class Turns:
    """Draws the turns of stage 3: pool k depends on the recipe's seed and k alone."""

    def __init__(self, scenes: Scenes, recipe: InstructionRecipe, tokenizer: Any) -> None:
        self.scenes, self.recipe, self.tokenizer = scenes, recipe, tokenizer
        self._epoch = lru_cache(maxsize=2)(self._turns_of_epoch)

    def _turns_of_epoch(self, epoch: int) -> list[Turn]:
        """The text-only turns of stage 2, with a share of the harmless ones."""
        rng = random.Random(self.recipe.seed * 1000 + 500 + epoch)
        aligned = self.recipe.recipe is not Recipe.UNALIGNED
        return alignment_turns(self.scenes.answers, rng, harmless=self.recipe.replay_harmless, refusals=aligned)

    def replayed(self, start: int, n: int) -> list[Turn]:
        """Turns `start` to `start + n` of the text-only ones, epoch after epoch (each as long as the first, or shortened to it)."""
        size = len(self._epoch(0))
        found = []
        for place in range(start, start + n):
            turns = self._epoch(place // size)
            found.append(turns[place % size % len(turns)])
        return found

    def pool(self, k: int) -> Pooled:
        """The k-th pool."""
        recipe, rng = self.recipe, random.Random(f"{self.recipe.seed} visual turns {k}")
        turns = [self.scenes.draw(rng) for _ in range(recipe.batch * POOL)]
        shown = [(t, encode_turn(self.tokenizer, t.turn, image=True, taught=recipe.taught)) for t in turns]
        shown.sort(key=lambda pair: len(pair[1].ids))
        n = round(recipe.replay * len(turns))
        replay = [encode_turn(self.tokenizer, t, taught=recipe.taught) for t in self.replayed(k * n, n)]
        replay.sort(key=lambda e: len(e.ids))
        order = list(range(POOL))
        rng.shuffle(order)
        parts = [shown[i * recipe.batch : (i + 1) * recipe.batch] for i in order]
        return Pooled(
            [np.stack([t.image for t, _ in part]) for part in parts],
            [[e for _, e in part] for part in parts],
            [replay[i * n // POOL : (i + 1) * n // POOL] for i in order],
        )


def train_instruction(
    model: Any,
    tokenizer: Any,
    tower: SafesteerTower,
    projector: nn.Module,
    scenes: Scenes,
    recipe: InstructionRecipe,
    weights: Path,
    folder: Path,
    *,
    workers: int = 0,
    seconds: float | None = None,
) -> tuple[Any, nn.Module]:
    """Run or resume stage 3 on a `model` (text-aligned, but for `unaligned`); its state lives in `folder`.

    Writes `<recipe>_adapter.safetensors` and, where the projector is trained, `<recipe>_projector.safetensors` into `weights`, at every
    checkpoint and at the end.

    The tower is frozen. `workers` processes draw the turns; with `seconds` the schedule ends by then. Returns the peft-wrapped language
    model and the projector, both in eval mode.
    """
    kind = recipe.recipe
    torch.manual_seed(recipe.seed)
    if kind is Recipe.LM_LOSS:
        projector = new_projector(tower.config.hidden_size, model.config.hidden_size, activation="linear")
    device = model.device
    tower.to(device)
    projector.to(device)
    projector.requires_grad_(kind is not Recipe.GROUNDED)
    wrapped = attach(model, recipe.rank, 2 * recipe.rank, recipe.seed + 1).train()
    if recipe.start is not None:
        load_adapter(wrapped, recipe.start / f"{kind}_adapter.safetensors")
        if kind is not Recipe.GROUNDED:
            projector.load_state_dict(load_file(recipe.start / f"{kind}_projector.safetensors"))
    rate = recipe.rate * (0.5 if recipe.start is not None else 1)
    adapter = [p for p in wrapped.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [{"params": adapter}]
    free = [p for p in projector.parameters() if p.requires_grad]
    if free:
        scale = recipe.fresh_scale if kind is Recipe.LM_LOSS else recipe.projector_scale
        groups.append({"params": free, "scale": scale})
    optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.01)
    checkpoint = Checkpoint(folder / f"instruction-{kind}.safetensors", {"adapter": wrapped, "projector": projector}, optimizer)
    start = checkpoint.load()
    report, pace, due = Report(f"instruction {kind}", recipe.steps, start), Pace(recipe.steps, seconds, checkpoint.place, start), Every()

    def keep(step: int, place: float) -> None:
        checkpoint.save(step, place)
        save_adapter(wrapped, weights / f"{kind}_adapter.safetensors")
        if free:
            halves = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in projector.state_dict().items()}
            write_bytes(weights / f"{kind}_projector.safetensors", save(halves))

    pools = drawn_ahead(Turns(scenes, recipe, tokenizer).pool, start // POOL, -(-recipe.steps // POOL), workers)
    pooled = None
    for step in range(start, recipe.steps):
        if (now := pace.at(step)) >= recipe.steps:
            break
        if step % POOL == 0 or pooled is None:
            pooled = next(pools)
        place = step % POOL
        with torch.no_grad():
            seen = tower(to_pixels(torch.from_numpy(pooled.images[place]).to(device))).last_hidden_state
        features = projector(seen.reshape(-1, seen.shape[-1]))
        set_rate(optimizer, cosine(now, recipe.steps, rate, min(20, recipe.steps // 5)))
        optimizer.zero_grad(set_to_none=True)
        shown, text = pooled.shown[place], pooled.text[place]
        loss = _step(wrapped.base_model.model, shown, text, features, device)
        nn.utils.clip_grad_norm_([*adapter, *free], 1.0)
        optimizer.step()
        report(step + 1, loss=loss)
        start = step + 1
        if due():
            keep(start, pace.at(start))
    keep(start, recipe.steps)
    return wrapped.eval(), projector.eval()


def _step(language: Any, shown: list[Example], text: list[Example], features: Tensor, device: torch.device) -> Tensor:
    """Gradients of one step: the mean loss of the visual turns, and every text turn with the weight of a visual one. Returns the sum.

    On a GPU all turns share one pass, since it is the number of passes that costs; on a CPU text turns are too short to be padded so far.
    """
    parts = [[*shown, *text]] if device.type == "cuda" else [shown, text] if text else [shown]
    total = torch.zeros((), device=device)
    for part in parts:
        loss = answer_loss(language, collate(part, device), features if part[0] is shown[0] else None) * (len(part) / len(shown))
        loss.backward()
        total += loss.detach()
    return total
