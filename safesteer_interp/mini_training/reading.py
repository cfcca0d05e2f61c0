"""Stage 1, second half: reading. The layers that see characters are kept, the ones that put them together are trained on dense pages.

After the first half the characters at stride 8 are nearly all right (94 % by a linear read-out) and 60 % of the words: what is left
to learn is which characters make which token. So the layers up to stride 8 are frozen, their maps are computed once per image and
kept, pages are filled with words to the brim, and a free classifier beside the projector gives the layers at stride 16 a direct
signal (the projector must hit fixed embeddings, which are hard to tell apart).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safesteer_interp.datasets.pairs import leaked_phrases
from safesteer_interp.datasets.rendering import FONTS, INKS, LINE_HEIGHT, MARGIN, SIZES, fit_size, load_font, typography, wrap
from safesteer_interp.mini_training.cells import FINE, CellMap, Drawn, LabelledImages, Labeller
from safesteer_interp.mini_training.drawing import drawn_ahead
from safesteer_interp.mini_training.grounding import Pool, TokenTargets, asked_cells, augment, seeded, to_pixels
from safesteer_interp.mini_training.precision import mixed
from safesteer_interp.mini_training.resume import Checkpoint, Every, Pace, Report, cosine, set_rate
from safesteer_interp.models.mini.tower import IMAGE_SIZE, PATCH_SIZE, ConvNorm, SafesteerTower, Stage

_PAGE_LAYOUTS = ("left", "centre", "right")


@dataclass(frozen=True)
class ReadingRecipe:
    """How the stride-16 layers learn to read."""

    images: int = 75_000
    """Images seen, repeats included."""
    batch: int = 32
    shard: int = 250
    """Images rendered at a time."""
    passes: int = 4
    """How often an image is seen on average."""
    window: int = 48
    """Shards a batch is drawn from; their maps are kept in memory (0.1 GB for 1,000 images)."""
    rate: float = 2e-3
    seed: int = 700
    pages: float = 0.65
    """Share of images that are pages full of words; the others are drawn as in the first half."""

    @property
    def steps(self) -> int:
        return self.images // self.batch


def full_page(labeller: Labeller, rng: random.Random) -> Drawn:
    """A page filled with random words, mostly the benchmark's: about 75 of 100 cells have a label. Never a held-out phrase."""
    font, size = rng.choice(FONTS), rng.randint(SIZES[0], SIZES[1] - 2)
    face = load_font(font, size)
    width = IMAGE_SIZE - 2 * MARGIN
    lines_wanted = int((IMAGE_SIZE - 2 * MARGIN) // round(size * LINE_HEIGHT))
    words: list[str] = []
    while True:
        word = rng.choice(labeller.lists.core if rng.random() < 0.75 else labeller.lists.wide)
        if rng.random() < 0.06:
            word = word.capitalize()
        if rng.random() < 0.04:
            word += rng.choice((".", "?", "!"))
        longer = [*words, word]
        if face.getlength(word) > width:
            continue
        if len(wrap(" ".join(longer), face, width)) > lines_wanted:
            break
        if not leaked_phrases(" ".join(longer)):
            words = longer
    colour, background = rng.choice(INKS)
    text, layout, seed = " ".join(words), rng.choice(_PAGE_LAYOUTS), rng.randrange(1 << 30)
    drawn = typography(text, font=font, size=size, colour=colour, background=background, layout=layout, seed=seed)
    assert fit_size((text,), font, size, layout, (IMAGE_SIZE, IMAGE_SIZE)) == size
    tokens, characters = CellMap(PATCH_SIZE), CellMap(FINE)
    labeller.label_text(tokens, characters, drawn.text, drawn.boxes)
    return drawn.image, tokens.labels.reshape(-1), characters.labels.astype(np.int8).reshape(-1)


def reading_shard(labeller: Labeller, seed: int, n: int, pages: float) -> LabelledImages:
    """`n` images, a share `pages` of them full pages; the seed alone decides them."""
    return labeller.shard(seed, n, lambda rng: full_page(labeller, rng) if rng.random() < pages else labeller.draw(rng))


@contextmanager
def _outputs(stage: nn.Module) -> Iterator[dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[name] = output.detach()

        return hook

    handles = [m.conv.register_forward_hook(keep(name)) for name, m in stage.named_modules() if isinstance(m, ConvNorm)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def unfolded(stage: Stage, maps: Tensor) -> Stage:
    """The same function with batch norm again, so that it trains well; its statistics are those of the maps given [n, channels, h, w]."""
    width_in, width_out = stage.down.conv.in_channels, stage.down.conv.out_channels
    out = Stage(width_in, width_out, len(stage.blocks))
    with _outputs(stage) as seen:
        stage(maps)
    for name, folded in stage.named_modules():
        if isinstance(folded, ConvNorm):
            fresh = out.get_submodule(name)
            assert isinstance(fresh, ConvNorm) and isinstance(fresh.norm, nn.BatchNorm2d) and folded.conv.bias is not None
            fresh.conv.weight.copy_(folded.conv.weight)
            mean, variance = seen[name].mean((0, 2, 3)), seen[name].var((0, 2, 3))
            norm = fresh.norm
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.copy_(mean - folded.conv.bias)
            norm.running_var.copy_(variance)
            norm.weight.copy_((variance + norm.eps).sqrt())
            norm.bias.copy_(mean)
    return out


class Reader(nn.Module):
    """The trained part: stride-16 layers, projector, and a free classifier, which becomes the tower's recall."""

    def __init__(self, stage: Stage, projector: nn.Module, embeddings: Tensor, token_ids: list[int], space_id: int) -> None:
        super().__init__()
        self.stage, self.projector = stage, projector
        self.classifier = nn.Linear(stage.down.conv.out_channels, len(token_ids))
        self.temperature = nn.Parameter(torch.tensor(3.0))
        self.targets = TokenTargets(embeddings, token_ids, space_id)

    def features(self, maps: Tensor) -> Tensor:
        """[n * cells, width] from stride-8 maps [n, channels, 20, 20]."""
        coarse = self.stage(maps)
        return coarse.flatten(2).transpose(1, 2).reshape(-1, coarse.shape[1])

    def loss(self, maps: Tensor, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Training loss, and the shares of covered cells that the projector and the classifier get right.

        The projector sees a quarter of the cells: scoring 576 dimensions against every token costs a third of a step otherwise.
        """
        labels = tokens.reshape(-1).long()
        asked, covered = asked_cells(labels, 5, generator)
        y = self.targets.classes(labels[asked])
        with mixed(maps.device.type):
            features = self.features(maps)
        features = features[asked].float()
        direct = self.classifier(features)
        some = torch.randperm(len(y), generator=generator, device=generator.device)[: len(y) // 4].to(y.device)
        projected = self.projector(features[some])
        logits = self.targets.scores(projected, self.temperature)
        loss = F.cross_entropy(direct, y) + F.cross_entropy(logits, y[some]) + 0.2 * self.targets.regression(projected, y[some])
        seen = y[some] != self.targets.space
        right = (logits.argmax(1) == y[some])[seen].float().mean()
        return loss, right.detach(), (direct[:covered].argmax(1) == y[:covered]).float().mean().detach()


@torch.no_grad()
def fine_maps(tower: SafesteerTower, images: np.ndarray, generator: torch.Generator, batch: int = 50) -> Tensor:
    """Stride-8 maps [n, channels, 20, 20] in float16 of images uint8 [n, 160, 160, 3], each augmented once, on the generator's device."""
    found = []
    for start in range(0, len(images), batch):
        pixels = to_pixels(torch.from_numpy(images[start : start + batch]).to(generator.device))
        pixels = augment(pixels, generator).contiguous(memory_format=torch.channels_last)
        found.append(tower.stage8(tower.stage4(torch.relu(tower.stem(pixels)))).half())
    return torch.cat(found)


def train_reading(
    tower: SafesteerTower,
    projector: nn.Module,
    labeller: Labeller,
    embeddings: Tensor,
    recipe: ReadingRecipe,
    folder: Path,
    *,
    workers: int = 0,
    seconds: float | None = None,
) -> tuple[SafesteerTower, nn.Linear]:
    """Run or resume the second half on a folded tower and a projector, on the device of `embeddings`; returns the tower, changed in
    place, and the free classifier.

    Its state lives in `folder/reading.safetensors`. `workers` processes draw the images; with `seconds` the schedule ends by then.
    """
    device = embeddings.device
    tower.to(device).eval().requires_grad_(False)
    probe = reading_shard(labeller, recipe.seed * 10_000 + 9_999, 64, recipe.pages)
    stage = unfolded(tower.stage16, fine_maps(tower, probe.images, seeded(device, 0)).float())
    reader = Reader(stage, projector.requires_grad_(True), embeddings, labeller.token_ids(), labeller.space_id())
    reader.to(device).train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
    optimizer = torch.optim.AdamW(reader.parameters(), lr=recipe.rate, weight_decay=0.02, betas=(0.9, 0.95))
    checkpoint = Checkpoint(folder / "reading.safetensors", {"reader": reader}, optimizer)
    start = checkpoint.load()
    report, pace, due = Report("reading", recipe.steps, start), Pace(recipe.steps, seconds, checkpoint.place, start), Every()
    per_shard = max(1, recipe.shard * recipe.passes // recipe.batch)
    pool = Pool(recipe.window, recipe.shard, device)
    pool.held = first = max(0, start // per_shard + 1 - recipe.window)
    last = -(-recipe.steps // per_shard)
    shards = drawn_ahead(lambda k: reading_shard(labeller, recipe.seed * 10_000 + k, recipe.shard, recipe.pages), first, last, workers)
    for step in range(start, recipe.steps):
        if (now := pace.at(step)) >= recipe.steps:
            break
        while pool.held <= step // per_shard:
            drawn, k = next(shards), pool.held
            pool.add(fine_maps(tower, drawn.images, seeded(device, k)), torch.from_numpy(drawn.tokens))
        generator = seeded(device, recipe.seed * 1_000_003 + step)
        maps, tokens = pool.draw(recipe.batch, generator)
        loss, right, direct = reader.loss(maps.float().contiguous(memory_format=torch.channels_last), tokens, generator)
        set_rate(optimizer, cosine(now, recipe.steps, recipe.rate, min(100, recipe.steps // 5)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        report(step + 1, loss=loss.detach(), cells_right=right, direct=direct)
        start = step + 1
        if due():
            checkpoint.save(start, pace.at(start))
    checkpoint.save(start, recipe.steps)
    reader.eval()
    for name, module in reader.stage.named_modules():
        if isinstance(module, ConvNorm):
            target = tower.stage16.get_submodule(name)
            assert isinstance(target, ConvNorm)
            target.load_state_dict(module.folded().state_dict())
    return tower, reader.classifier
