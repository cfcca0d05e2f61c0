"""The reading half of mini's tower training: full pages and their labels, batch norm put back, and a short run that resumes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from safesteer_interp.datasets.pairs import leaked_phrases
from safesteer_interp.mini_training import resume
from safesteer_interp.mini_training.cells import NOTHING, Labeller, coloured
from safesteer_interp.mini_training.grounding import TokenTargets, new_projector, to_pixels
from safesteer_interp.mini_training.reading import ReadingRecipe, fine_maps, full_page, reading_shard, train_reading, unfolded
from safesteer_interp.mini_training.recall import RecallRecipe, cell_accuracy, fit_classifier, grounded_projector, with_recall
from safesteer_interp.mini_training.words import WordLists
from safesteer_interp.models.families.tokenizers import byte_level
from safesteer_interp.models.mini.tower import PAPERS, ConvNorm, SafesteerTower, SafesteerTowerConfig

TOKENIZER = byte_level(["<|end|>"], eos="<|end|>", pad="<|end|>")
WORDS = ("passport", "garden", "bank", "money", "house", "car", "paper", "river", "lemon", "table", "music", "train")


@pytest.fixture(scope="module")
def labeller() -> Labeller:
    return Labeller(TOKENIZER, WordLists(WORDS, WORDS))


@pytest.fixture
def tower() -> SafesteerTower:
    torch.manual_seed(0)
    return SafesteerTower(SafesteerTowerConfig(trunk_size=32, low_blocks=1, high_blocks=1, folded=False)).eval().folded()


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


class Clock:
    """Two seconds pass between any two looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 2.0
        return self.now


def test_a_training_whose_seconds_ran_out_is_kept_and_not_repeated(
    labeller: Labeller, tower: SafesteerTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = torch.randn(len(TOKENIZER), 24, generator=torch.Generator().manual_seed(1))
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    monkeypatch.setattr(resume, "time", Clock())

    def run(seconds: float | None) -> dict[str, torch.Tensor]:
        copy = SafesteerTower(tower.config)
        copy.load_state_dict(before)
        torch.manual_seed(4)
        recipe = ReadingRecipe(images=800, batch=8, shard=8, passes=2, window=2, pages=1.0)
        return train_reading(copy, new_projector(32, 24), labeller, embeddings, recipe, tmp_path, seconds=seconds)[0].state_dict()

    after = run(seconds=30)
    with safe_open(tmp_path / "reading.safetensors", "pt") as file:
        known = file.metadata()
    assert 0 < int(known["step"]) < 20 and float(known["place"]) == 100, "fewer steps, and the whole schedule"
    for seconds in (30, 9e9, None):
        again = run(seconds)
        assert all(torch.equal(after[k], again[k]) for k in after), "it has ended, with whatever budget it is asked again"


@pytest.fixture
def targets(labeller: Labeller) -> TokenTargets:
    embeddings = torch.randn(len(TOKENIZER), 24, generator=torch.Generator().manual_seed(1))
    return TokenTargets(embeddings, labeller.token_ids(), labeller.space_id())


def test_recall_stands_beside_the_features(labeller: Labeller, tower: SafesteerTower, targets: TokenTargets) -> None:
    classifier = torch.nn.Linear(32, len(targets.embeddings))
    recalling = with_recall(tower, classifier, targets, ())
    pixels = to_pixels(reading_shard(labeller, 6, 2, 1.0).images)
    with torch.no_grad():
        plain, both = tower(pixels).last_hidden_state, recalling(pixels).last_hidden_state
        mixed = classifier(plain).softmax(-1) @ targets.embeddings
    assert both.shape == (2, 100, 32 + 24) and recalling.config.hidden_size == 56
    torch.testing.assert_close(both, torch.cat([plain, mixed], -1))


@pytest.fixture
def papers(targets: TokenTargets) -> list[int]:
    """A token of its own for every colour of paper (the tiny tokenizer has no colour names)."""
    return [int(token) for token in (targets.class_of >= 0).nonzero()[: len(PAPERS), 0]]


def test_an_empty_cell_stands_for_the_colour_of_its_paper(tower: SafesteerTower, targets: TokenTargets, papers: list[int]) -> None:
    classifier = torch.nn.Linear(32, len(targets.embeddings))
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.bias.fill_(-50.0)[targets.space] = 50.0  # sees nothing anywhere
    recalling = with_recall(tower, classifier, targets, papers)
    rng = random.Random(1)
    drawn = [coloured(rng) for _ in range(60)]
    pixels = to_pixels(np.stack([np.asarray(image) for image, _ in drawn]))
    with torch.no_grad():
        codes = recalling(pixels).last_hidden_state[:, 45, 32:]
    nearest = torch.cdist(codes, targets.embeddings[targets.class_of[papers]]).argmin(1)
    assert [list(PAPERS)[i].lower() for i in nearest.tolist()] == [name for _, name in drawn]
    with torch.no_grad():
        classifier.bias.fill_(-50.0)[7] = 50.0  # sees one word everywhere
        codes = with_recall(tower, classifier, targets, papers)(pixels).last_hidden_state[..., 32:]
    torch.testing.assert_close(codes, targets.embeddings[7].expand_as(codes))


def test_a_tower_with_recall_is_saved_and_loaded(
    labeller: Labeller, tower: SafesteerTower, targets: TokenTargets, papers: list[int], tmp_path: Path
) -> None:
    recalling = with_recall(tower, torch.nn.Linear(32, len(targets.embeddings)), targets, ())
    recalling.save_pretrained(tmp_path)
    loaded = SafesteerTower.from_pretrained(tmp_path)
    pixels = to_pixels(reading_shard(labeller, 6, 2, 1.0).images)
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels).last_hidden_state, recalling(pixels).last_hidden_state)


def test_the_grounded_projector_hands_codes_on_and_nothing_else(tower: SafesteerTower, targets: TokenTargets, papers: list[int]) -> None:
    recalling = with_recall(tower, torch.nn.Linear(32, len(targets.embeddings)), targets, papers)
    projector = grounded_projector(recalling)
    with torch.no_grad():
        n = len(targets.embeddings)
        handed = projector(torch.cat([torch.randn(n, 32) * 10, targets.embeddings], 1))
    error = (handed - targets.embeddings).norm(dim=1) / targets.embeddings.norm(dim=1)
    assert float(error.max()) < 0.05


def test_the_classifier_learns_what_cells_show(labeller: Labeller, tower: SafesteerTower, targets: TokenTargets) -> None:
    drawn = reading_shard(labeller, 60_000, 8, 1.0)
    torch.manual_seed(0)
    classifier = torch.nn.Linear(32, len(targets.embeddings))
    before = cell_accuracy(with_recall(tower, classifier, targets, ()), targets, drawn)
    recipe = RecallRecipe(images=8, steps=300, batch=256, rate=3e-2, pages=1.0, seed=6)
    fit_classifier(tower, classifier, labeller, targets, recipe)
    after = cell_accuracy(with_recall(tower, classifier, targets, ()), targets, drawn)
    assert after["cells"] == before["cells"] == int((drawn.tokens >= 0).sum())
    assert after["cells_right"] > before["cells_right"] + 0.2  # an untrained tower tells little
    assert after["cosine"] > before["cosine"]
