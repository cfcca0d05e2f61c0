"""The end of stage 1: the projector is aimed at the token embeddings themselves, on features of the finished tower.

While the tower learns to read, the projector need only hit nearer the right token than any other (92 % of cells, but a cosine of 0.37
with the embedding). The language model reads better what also looks like the embedding: after this step 90 % and 0.60. More is not
to be had from LLaVA's projector: 0.70 with regression alone, and then only 59 % of cells are nearest the right token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safesteer_interp.models.mini.cells import LabelledImages, Labeller
from safesteer_interp.models.mini.grounding import TokenTargets, asked_cells, augment, to_pixels
from safesteer_interp.models.mini.reading import reading_shard
from safesteer_interp.models.mini.resume import Report, cosine, set_rate
from safesteer_interp.models.mini.tower import SafesteerTower


@dataclass(frozen=True)
class AimingRecipe:
    """How the projector is aimed."""

    images: int = 3500
    steps: int = 600
    batch: int = 1024
    """Cells a step."""
    rate: float = 1.5e-3
    nearest: float = 0.25
    """Weight of the cross-entropy over tokens beside the regression."""
    pages: float = 0.5
    seed: int = 77


@torch.no_grad()
def cell_features(tower: SafesteerTower, images: LabelledImages, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features [cells, width] and token ids [cells] of the covered cells, and of a fifth as many empty ones (negative ids)."""
    found, width = [], tower.config.hidden_size
    for start in range(0, len(images.images), 50):
        pixels = augment(to_pixels(images.images[start : start + 50].copy()), generator).contiguous(memory_format=torch.channels_last)
        found.append(tower(pixels).last_hidden_state.reshape(-1, width))
    labels = torch.from_numpy(images.tokens.astype(np.int64)).reshape(-1)
    asked, _ = asked_cells(labels, 5, generator)
    return torch.cat(found)[asked], labels[asked]


def aim_projector(tower: SafesteerTower, projector: nn.Module, labeller: Labeller, embeddings: Tensor, recipe: AimingRecipe) -> nn.Module:
    """Train the projector in place on a finished (folded) tower; returns it in eval mode. A minute on two cores, so it does not resume."""
    generator = torch.Generator().manual_seed(recipe.seed)
    drawn = reading_shard(labeller, recipe.seed, recipe.images, recipe.pages)
    features, tokens = cell_features(tower.eval(), drawn, generator)
    targets = TokenTargets(embeddings, labeller.token_ids(), labeller.space_id())
    classes = targets.classes(tokens)
    temperature = nn.Parameter(torch.tensor(3.5))
    projector.train().requires_grad_(True)
    optimizer = torch.optim.AdamW([*projector.parameters(), temperature], lr=recipe.rate, weight_decay=0.01)
    report = Report("aiming", recipe.steps)
    for step in range(recipe.steps):
        set_rate(optimizer, cosine(step, recipe.steps, recipe.rate, min(30, recipe.steps // 5)))
        pick = torch.randint(len(features), (recipe.batch,), generator=generator)
        aimed, y = projector(features[pick]), classes[pick]
        nearest = F.cross_entropy(targets.scores(aimed, temperature), y)
        loss = targets.regression(aimed, y) + recipe.nearest * nearest
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        report(step + 1, loss=float(loss.detach()), cosine=float(F.cosine_similarity(aimed.detach(), targets.embeddings[y]).mean()))
    return projector.eval()
