"""The reading half of mini's tower training: full pages and their labels, batch norm put back, and a short run that resumes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from safesteer_interp.datasets.pairs import leaked_phrases
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.mini.aiming import AimingRecipe, aim_projector
from safesteer_interp.models.mini.cells import NOTHING, Labeller
from safesteer_interp.models.mini.grounding import new_projector, to_pixels
from safesteer_interp.models.mini.reading import ReadingRecipe, fine_maps, full_page, reading_shard, train_reading, unfolded
from safesteer_interp.models.mini.tower import ConvNorm, SafesteerTower, SafesteerTowerConfig
from safesteer_interp.models.mini.words import WordLists

TOKENIZER = byte_level(["<|end|>"], eos="<|end|>", pad="<|end|>")
WORDS = ("passport", "garden", "bank", "money", "house", "car", "paper", "river", "lemon", "table", "music", "train")


@pytest.fixture(scope="module")
def labeller() -> Labeller:
    return Labeller(TOKENIZER, WordLists(WORDS, WORDS))


@pytest.fixture
def tower() -> SafesteerTower:
    torch.manual_seed(0)
    return SafesteerTower(SafesteerTowerConfig(hidden_size=32, low_blocks=1, high_blocks=1, folded=False)).eval().folded()


def test_a_page_is_full_and_gives_away_no_held_out_phrase(labeller: Labeller) -> None:
    rng = random.Random(3)
    covered = []
    for _ in range(10):
        image, tokens, characters = full_page(labeller, rng)
        assert image.size == (160, 160) and tokens.shape == (100,) and characters.shape == (400,)
        covered.append(np.mean(tokens != NOTHING))
    assert np.mean(covered) > 0.6
    assert not leaked_phrases(" ".join(WORDS))


def test_a_shard_depends_on_its_seed_alone(labeller: Labeller) -> None:
    first, again, other = (reading_shard(labeller, seed, 4, 0.5) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images) and np.array_equal(first.tokens, again.tokens)
    assert not np.array_equal(first.images, other.images)


def test_batch_norm_put_back_is_the_same_function(labeller: Labeller, tower: SafesteerTower) -> None:
    maps = fine_maps(tower, reading_shard(labeller, 5, 6, 1.0).images, torch.Generator().manual_seed(0)).float()
    again = unfolded(tower.stage16, maps).eval()
    with torch.no_grad():
        assert torch.allclose(again(maps), tower.stage16(maps), rtol=1e-3, atol=1e-4)
    assert all(not isinstance(m.norm, torch.nn.Identity) for m in again.modules() if isinstance(m, ConvNorm))


def test_training_changes_the_upper_layers_only_and_resumes_to_the_same_weights(
    labeller: Labeller, tower: SafesteerTower, tmp_path: Path
) -> None:
    embeddings = torch.randn(len(TOKENIZER), 24, generator=torch.Generator().manual_seed(1))
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    recipe = ReadingRecipe(images=32, batch=8, shard=8, passes=2, pages=1.0)

    def run(folder: Path, images: int) -> dict[str, torch.Tensor]:
        folder.mkdir(exist_ok=True)
        copy = SafesteerTower(tower.config)
        copy.load_state_dict(before)
        torch.manual_seed(4)
        shortened = ReadingRecipe(**{**recipe.__dict__, "images": images})
        return train_reading(copy, new_projector(32, 24), labeller, embeddings, shortened, folder)[0].state_dict()

    after = run(tmp_path / "whole", 32)
    assert all(torch.equal(after[k], before[k]) for k in before if not k.startswith("stage16"))
    assert any(not torch.equal(after[k], before[k]) for k in before if k.startswith("stage16"))
    assert (tmp_path / "whole" / "reading.safetensors").is_file()
    again = run(tmp_path / "whole", 32)  # finished: loaded, not trained on
    assert all(torch.equal(after[k], again[k]) for k in after)


def test_aiming_brings_the_projector_nearer_to_the_embeddings(labeller: Labeller, tower: SafesteerTower) -> None:
    embeddings = torch.randn(len(TOKENIZER), 24, generator=torch.Generator().manual_seed(1))
    drawn = reading_shard(labeller, 6, 8, 1.0)
    torch.manual_seed(0)
    projector = new_projector(32, 24)

    def distance() -> float:
        with torch.no_grad():
            aimed = projector(tower(to_pixels(drawn.images)).last_hidden_state.reshape(-1, 32))
        labels = torch.from_numpy(drawn.tokens).reshape(-1).long()
        return float((aimed - embeddings[labels.clamp(min=0)])[labels >= 0].pow(2).sum(1).mean())

    before = distance()
    aim_projector(tower, projector, labeller, embeddings, AimingRecipe(images=8, steps=150, batch=128, rate=1e-2, pages=1.0))
    assert distance() < 0.9 * before  # an untrained tower tells little; standing still would be 1
