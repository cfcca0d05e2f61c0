"""Stage 1, dense token grounding: the tower learns to see without a language model in the loop.

Every cell of an image is asked for the LM token whose rendering covers it: cross-entropy against the LM's own token embeddings plus
regression onto them, through a projector that only training needs (`recall.py` makes the one that is kept). An auxiliary character
loss at stride 8 makes it learn to read at all (measured: 6 % of cells after 25,000 images without it).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from safesteer_interp.mini_training.cells import CHARACTERS, Labeller
from safesteer_interp.mini_training.drawing import drawn_ahead
from safesteer_interp.mini_training.precision import mixed
from safesteer_interp.mini_training.resume import Checkpoint, Every, Pace, Report, cosine, set_rate
from safesteer_interp.models.mini.tower import SafesteerTower, SafesteerTowerConfig

HELD_OUT_SEED = 1_000_000
"""Shards from this seed on are never trained on."""


@dataclass(frozen=True)
class GroundingRecipe:
    """How the tower is trained."""

    images: int = 64_000
    """Images seen, repeats included."""
    batch: int = 32
    shard: int = 500
    """Images rendered at a time."""
    passes: int = 2
    """How often an image is seen on average."""
    window: int = 32
    """Shards a batch is drawn from."""
    rate: float = 2e-3
    seed: int = 0
    trunk_size: int = 224
    low_blocks: int = 2
    high_blocks: int = 3

    @property
    def steps(self) -> int:
        return self.images // self.batch


def new_projector(width: int, text_width: int, activation: str = "gelu") -> LlavaMultiModalProjector:
    """LLaVA's two-layer projector from tower features [width] to the LM's embeddings [text_width]."""
    config = PretrainedConfig(
        vision_config=PretrainedConfig(hidden_size=width),
        text_config=PretrainedConfig(hidden_size=text_width),
        vision_feature_layer=-1,
        projector_hidden_act=activation,
        multimodal_projector_bias=True,
    )
    return LlavaMultiModalProjector(config)


def to_pixels(images: np.ndarray | Tensor) -> Tensor:
    """uint8 [n, height, width, 3] to the tower's input: float [n, 3, height, width] in [-1, 1]."""
    return torch.as_tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1


class TokenTargets:
    """The language model's own embeddings as classes: what every step of stage 1 asks a cell for.

    Plain tensors, not a module: constants that no checkpoint needs to hold.
    """

    def __init__(self, embeddings: Tensor, token_ids: list[int], space_id: int) -> None:
        self.embeddings = embeddings[token_ids].float()
        self.normed = F.normalize(self.embeddings, dim=1)
        self.scale = self.embeddings.pow(2).sum(1).mean()
        self.class_of = torch.full((len(embeddings) + 1,), -1, device=embeddings.device)
        self.class_of[torch.tensor(token_ids)] = torch.arange(len(token_ids), device=embeddings.device)
        self.space = int(self.class_of[space_id])
        """The class of an empty cell."""

    def classes(self, tokens: Tensor) -> Tensor:
        """Class [n] of token ids [n]; a negative id is an empty cell."""
        return torch.where(tokens < 0, self.space, self.class_of[tokens])

    def scores(self, projected: Tensor, temperature: Tensor) -> Tensor:
        """[n, classes]: cosine of projected features [n, d] with every embedding, times exp(temperature)."""
        return F.normalize(projected.float(), dim=1) @ self.normed.T * temperature.exp()

    def regression(self, projected: Tensor, classes: Tensor) -> Tensor:
        """Mean squared distance to the embeddings of the classes, in units of an embedding's mean squared length."""
        return (projected - self.embeddings[classes]).pow(2).sum(1).mean() / self.scale


def asked_cells(tokens: Tensor, share: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Indices of the cells that are asked: all covered ones of `tokens` [cells], then one empty cell for every `share` covered ones.

    Also how many are covered.
    """
    covered, empty = (tokens >= 0).nonzero()[:, 0], (tokens < 0).nonzero()[:, 0]
    drawn = torch.randperm(len(empty), generator=generator, device=generator.device)[: max(1, len(covered) // share)]
    return torch.cat([covered, empty[drawn.to(empty.device)]]), len(covered)


class Grounding(nn.Module):
    """Tower, projector and the two read-out heads of stage 1."""

    def __init__(self, recipe: GroundingRecipe, embeddings: Tensor, token_ids: list[int], space_id: int) -> None:
        super().__init__()
        config = SafesteerTowerConfig(
            trunk_size=recipe.trunk_size, low_blocks=recipe.low_blocks, high_blocks=recipe.high_blocks, folded=False
        )
        self.tower = SafesteerTower(config)
        self.projector = new_projector(recipe.trunk_size, embeddings.shape[1])
        self.characters = nn.Conv2d(config.widths[2], len(CHARACTERS) + 1, 1)
        self.temperature = nn.Parameter(torch.tensor(2.5))
        self.targets = TokenTargets(embeddings, token_ids, space_id)
        self.to(embeddings.device)

    def logits(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Projected features [n, d] and their scores over the token classes [n, classes]."""
        projected = self.projector(features)
        return projected, self.targets.scores(projected, self.temperature)

    def loss(self, pixels: Tensor, tokens: Tensor, characters: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training loss and the share of covered cells whose token is right."""
        with mixed(pixels.device.type):
            fine, coarse = self.tower.maps(pixels)
            read = self.characters(fine)
        features = coarse.float().flatten(2).transpose(1, 2).reshape(-1, coarse.shape[1])
        labels = tokens.reshape(-1).long()
        asked, covered = asked_cells(labels, 4, generator)
        y = self.targets.classes(labels[asked])
        projected, logits = self.logits(features[asked])
        cross_entropy = F.cross_entropy(logits, y)
        regression = self.targets.regression(projected, y)
        n = len(CHARACTERS)
        weight = torch.ones(n + 1, device=pixels.device)
        weight[n] = 0.2  # most fine cells are empty
        letters = characters.reshape(-1).long()
        auxiliary = F.cross_entropy(
            read.float().flatten(2).transpose(1, 2).reshape(-1, n + 1), torch.where(letters < 0, n, letters), weight=weight
        )
        right = (logits[:covered].argmax(1) == y[:covered]).float().mean()
        return cross_entropy + 0.2 * regression + auxiliary, right.detach()


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Random contrast, brightness per channel and noise, so that exact colours are not learnt; drawn on the generator's device."""
    n, device = len(pixels), generator.device
    gain = 0.65 + 0.35 * torch.rand(n, 3, 1, 1, generator=generator, device=device)
    shift = 0.15 * torch.randn(n, 3, 1, 1, generator=generator, device=device)
    return pixels * gain + shift + 0.04 * torch.randn(pixels.shape, generator=generator, device=device)


def new_grounding(labeller: Labeller, embeddings: Tensor, recipe: GroundingRecipe) -> Grounding:
    """A fresh tower with its heads, on the device of `embeddings`."""
    torch.manual_seed(recipe.seed)
    model = Grounding(recipe, embeddings, labeller.token_ids(), labeller.space_id())
    model.tower.to(memory_format=torch.channels_last)
    return model


class Pool:
    """The last `window` shards of a stream, on the training's device: what batches are drawn from."""

    def __init__(self, window: int, shard: int, device: torch.device) -> None:
        self.window, self.shard, self.device = window, shard, device
        self.held = 0
        """Shards added so far."""
        self.fields: list[Tensor] = []

    def add(self, *fields: Tensor) -> None:
        """Put a shard, one tensor [shard, ...] a field, in the place of the oldest."""
        if not self.fields:
            self.fields = [torch.empty((self.window * self.shard, *f.shape[1:]), dtype=f.dtype, device=self.device) for f in fields]
        start = self.held % self.window * self.shard
        for kept, new in zip(self.fields, fields, strict=True):
            kept[start : start + self.shard] = new.to(self.device)
        self.held += 1

    def draw(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """`n` random rows of every field."""
        pick = torch.randint(min(self.held, self.window) * self.shard, (n,), generator=generator, device=generator.device)
        return [kept[pick.to(self.device)] for kept in self.fields]


def seeded(device: torch.device | str, seed: int) -> torch.Generator:
    """A generator of that seed on a device."""
    return torch.Generator(device).manual_seed(seed)


def train_grounding(
    model: Grounding, labeller: Labeller, recipe: GroundingRecipe, folder: Path, *, workers: int = 0, seconds: float | None = None
) -> Grounding:
    """Run or resume the first half of stage 1 (the second is `reading.py`); its state lives in `folder/grounding.safetensors`.

    `workers` processes draw the images; with `seconds` the schedule ends by then.
    """
    model.train()
    device = model.targets.class_of.device
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=0.02, betas=(0.9, 0.95))
    checkpoint = Checkpoint(folder / "grounding.safetensors", {"grounding": model}, optimizer)
    start = checkpoint.load()
    report, pace, due = Report("grounding", recipe.steps, start), Pace(recipe.steps, seconds, checkpoint.place, start), Every()
    per_shard = max(1, recipe.shard * recipe.passes // recipe.batch)
    pool = Pool(recipe.window, recipe.shard, device)
    first = max(0, start // per_shard + 1 - recipe.window)
    last = -(-recipe.steps // per_shard)
    shards = drawn_ahead(lambda k: labeller.shard(recipe.seed * 10_000 + k, recipe.shard), first, last, workers)
    pool.held = first  # a resumed run fills the places that an uninterrupted one would
    for step in range(start, recipe.steps):
        if (now := pace.at(step)) >= recipe.steps:
            break
        while pool.held <= step // per_shard:
            drawn = next(shards)
            pool.add(*(torch.from_numpy(f) for f in (drawn.images, drawn.tokens, drawn.characters)))
        generator = seeded(device, recipe.seed * 1_000_003 + step)
        images, tokens, characters = pool.draw(recipe.batch, generator)
        pixels = augment(to_pixels(images), generator).contiguous(memory_format=torch.channels_last)
        loss, right = model.loss(pixels, tokens, characters, generator)
        set_rate(optimizer, cosine(now, recipe.steps, recipe.rate, 200))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        report(step + 1, loss=loss.detach(), cells_right=right)
        start = step + 1
        if due():
            checkpoint.save(start, pace.at(start))
    checkpoint.save(start, recipe.steps)
    return model.eval()
