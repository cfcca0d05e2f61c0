"""The end of stage 1: the tower names the token each cell shows, and the projector hands that token's embedding on.

LLaVA's two-layer projector cannot place thousands of words exactly: trained to do so, it reached a cosine of 0.60 with the embeddings
and the language model read 36 % of random words after 2400 visual turns. So the classifier of `reading.py` stays in the tower, with the
embeddings as its codes (`tower.Recall`), and the grounded projector is the identity on codes. Empty cells are recalled as the colour of
the paper: mean colours beside the features were not learnt to be named. What else a cell shows (texture) stands beside the code; the
grounded projector ignores it and a released one can learn to use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from safesteer_interp.mini_training.cells import LabelledImages, Labeller
from safesteer_interp.mini_training.drawing import drawn_ahead
from safesteer_interp.mini_training.grounding import TokenTargets, asked_cells, augment, new_projector, seeded, to_pixels
from safesteer_interp.mini_training.reading import reading_shard
from safesteer_interp.mini_training.resume import Report, cosine, set_rate
from safesteer_interp.models.mini.assemble import handing_on
from safesteer_interp.models.mini.tower import Recall, SafesteerTower, SafesteerTowerConfig

RENDERED = 250
"""Images rendered at a time."""


@dataclass(frozen=True)
class RecallRecipe:
    """How the classifier is fitted to the finished tower (batch norm folded, so its features are not those of training)."""

    images: int = 6000
    steps: int = 1500
    batch: int = 1024
    """Cells a step."""
    rate: float = 1e-3
    pages: float = 0.5
    """Share of images that are pages full of words."""
    seed: int = 77


@torch.no_grad()
def cell_features(tower: SafesteerTower, images: LabelledImages, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Trunk features [cells, width] and token ids [cells] of the covered cells, and of a fifth as many empty ones (negative ids)."""
    found = []
    for start in range(0, len(images.images), 50):
        pixels = to_pixels(torch.from_numpy(images.images[start : start + 50]).to(generator.device))
        coarse = tower.maps(augment(pixels, generator).contiguous(memory_format=torch.channels_last))[1]
        found.append(coarse.flatten(2).transpose(1, 2).reshape(-1, coarse.shape[1]))
    labels = torch.from_numpy(images.tokens.astype(np.int64)).reshape(-1).to(generator.device)
    asked, _ = asked_cells(labels, 5, generator)
    return torch.cat(found)[asked], labels[asked]


def fit_classifier(
    tower: SafesteerTower, classifier: nn.Linear, labeller: Labeller, targets: TokenTargets, recipe: RecallRecipe, *, workers: int = 0
) -> None:
    """Train the classifier in place on features of the finished tower, where the targets are. Minutes on two cores; does not resume."""
    device = targets.class_of.device
    generator = seeded(device, recipe.seed)
    part = min(RENDERED, recipe.images)
    shards = drawn_ahead(
        lambda k: reading_shard(labeller, recipe.seed * 10_000 + k, part, recipe.pages), 0, -(-recipe.images // part), workers
    )
    seen = [cell_features(tower.eval(), drawn, generator) for drawn in shards]
    features, classes = torch.cat([f for f, _ in seen]), targets.classes(torch.cat([t for _, t in seen]))
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=recipe.rate, weight_decay=0.01)
    report = Report("recall", recipe.steps)
    for step in range(recipe.steps):
        set_rate(optimizer, cosine(step, recipe.steps, recipe.rate, min(30, recipe.steps // 5)))
        pick = torch.randint(len(features), (recipe.batch,), generator=generator, device=device)
        logits, y = classifier(features[pick]), classes[pick]
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        report(step + 1, loss=loss.detach(), cells_right=(logits.detach().argmax(1) == y).float().mean())


@torch.no_grad()
def with_recall(tower: SafesteerTower, classifier: nn.Linear, targets: TokenTargets, papers: Sequence[int]) -> SafesteerTower:
    """The folded tower with a recall of the targets' embeddings by `classifier`, in eval mode.

    An empty cell stands for one of the token ids `papers`, by its colour.
    """
    codes = targets.embeddings
    known = [int(targets.class_of[token]) for token in papers]
    shape = {**tower.config.to_dict(), "n_codes": len(codes), "code_size": codes.shape[1], "papers": known, "empty_code": targets.space}
    out = SafesteerTower(SafesteerTowerConfig(**shape)).to(codes.device)
    out.load_state_dict(tower.state_dict(), strict=False)
    assert isinstance(out.recall, Recall)
    out.recall.classifier.load_state_dict(classifier.state_dict())
    out.recall.codes.copy_(codes)
    return out.eval()


@torch.no_grad()
def grounded_projector(tower: SafesteerTower) -> LlavaMultiModalProjector:
    """A projector that hands on a cell's code as it is and ignores the trunk's features.

    It is linear (LLaVA's first, arXiv 2304.08485, was): the nonlinear part of naming a cell is done in the tower. With GELU between
    its layers the identity needs a large offset, and the first steps of training then threw every code off by ten times its length.
    """
    projector = new_projector(tower.config.hidden_size, tower.config.code_size, activation="linear")
    projector.load_state_dict(handing_on(tower.config))
    return projector.eval()


@torch.inference_mode()
def cell_accuracy(tower: SafesteerTower, targets: TokenTargets, images: LabelledImages, batch: int = 50) -> dict[str, float]:
    """Shares of covered cells whose token the tower names, and of empty cells it calls empty, and the mean cosine of the mixture of
    codes with the right token's, on given renderings.
    """
    recall = tower.eval().recall
    assert recall is not None
    right = covered = empty_right = empty = 0
    near = 0.0
    for i in range(0, len(images.images), batch):
        pixels = to_pixels(torch.from_numpy(images.images[i : i + batch]).to(tower.device))
        features = tower(pixels).last_hidden_state[..., : tower.config.trunk_size]
        logits = recall.classifier(features).flatten(0, 1)
        labels = torch.from_numpy(images.tokens[i : i + batch]).reshape(-1).long().to(tower.device)
        seen = labels >= 0
        wanted, predicted = targets.classes(labels), logits.argmax(1)
        right += int((predicted[seen] == wanted[seen]).sum())
        covered += int(seen.sum())
        empty_right += int((predicted[~seen] == targets.space).sum())
        empty += int((~seen).sum())
        mixed = logits[seen].softmax(1) @ recall.codes
        near += float(F.cosine_similarity(mixed, targets.embeddings[wanted[seen]]).sum())
    return {
        "cells_right": right / max(1, covered),
        "cells": covered,
        "empty_right": empty_right / max(1, empty),
        "cosine": near / max(1, covered),
    }
